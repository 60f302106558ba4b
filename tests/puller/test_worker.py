"""What a worker does with entries of its queue that are no tickets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rq import Callback, Queue
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from services.shared.pulls.job import QUEUE, JobState
from tests.puller.conftest import PullTestbed


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is made by the function which hostile entries name."""
    return tmp_path / "was called"


def test_no_function_that_an_entry_names_is_called(testbed: PullTestbed, marker: Path) -> None:
    queue = Queue(QUEUE, connection=testbed.client, serializer=JSONSerializer)
    queue.enqueue("os.mkdir", str(marker))
    queue.enqueue("os.mkdir", path=str(marker))
    callback = Callback("tests.puller.test_worker.call_back")
    queue.enqueue(
        "services.puller.jobs.pull_model",
        str(marker),
        0,
        on_success=callback,
        on_failure=callback,
        on_stopped=callback,
    )
    queue.enqueue("os.mkdir", str(marker), on_failure=callback)
    job = testbed.pull("tiny:f16")

    assert job.state is JobState.DONE
    assert not marker.exists()
    assert not CALLED


def test_no_callback_of_an_abandoned_entry_is_called(
    testbed: PullTestbed,
) -> None:
    """RQ calls the failure callback of every entry that seems to have been started and lost."""
    queue = Queue(QUEUE, connection=testbed.client, serializer=JSONSerializer)
    entry = queue.enqueue("os.mkdir", on_failure=Callback("tests.puller.test_worker.call_back"))
    queue.remove(entry)
    lost = StartedJobRegistry(queue=queue)
    testbed.client.zadd(lost.key, {f"{entry.id}:execution": time.time() - 1000})
    testbed.run_queue()

    assert not CALLED


CALLED: list[object] = []


def call_back(*arguments: object) -> None:
    CALLED.append(arguments)
