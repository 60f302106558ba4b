"""The outcomes of a job, and the webhook that reports them."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from services.puller import jobs
from services.puller.build import build_webhook_sender
from services.puller.download.partial_file import PartialFile
from services.puller.maintenance import Maintenance
from services.puller.webhook import WebhookSender
from services.shared.pulls.job import PULL_MODEL, JobState
from tests.conftest import TINY_GGUF
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.puller.conftest import PullTestbed


def test_the_enqueued_path_is_that_of_the_function() -> None:
    assert f"{jobs.pull_model.__module__}.{jobs.pull_model.__name__}" == PULL_MODEL


def test_a_full_disk_fails_the_job_and_removes_the_partial_file(
    testbed: PullTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PartialFile.write

    def full(partial: PartialFile, data: bytes, offset: int) -> None:
        if partial.path.name.startswith(sha256_digest(TINY_GGUF.read_bytes()).replace(":", "-")):
            raise OSError(errno.ENOSPC, "no space left")
        write(partial, data, offset)

    monkeypatch.setattr(PartialFile, "write", full)
    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code, job.error) == (
        JobState.FAILED,
        "disk_full",
        "the disk is full",
    )
    assert testbed.leftover_files() == []


def test_an_unexpected_error_is_reported_without_its_details(
    testbed: PullTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(partial: PartialFile, data: bytes, offset: int) -> None:
        raise ZeroDivisionError("secret /path")

    monkeypatch.setattr(PartialFile, "write", bug)
    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "internal_error")
    assert "secret" not in (job.error or "")


def test_a_failed_job_can_be_retried(testbed: PullTestbed, registry: Registry) -> None:
    model = registry.manifests.pop("/v2/library/tiny/manifests/f16")
    failed = testbed.pull("tiny:f16")
    registry.manifests["/v2/library/tiny/manifests/f16"] = model

    testbed.job_queue.send(testbed.commands.retry(failed.id))
    testbed.run_queue()

    done = testbed.job_store.get(failed.id)
    assert (done.state, done.error, done.attempts) == (JobState.DONE, None, 1)


class Receiver:
    """The receiver of a webhook."""

    def __init__(self) -> None:
        self.on_result: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        outer = self

        class OwnHandler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.on_result.append(json.loads(body))
                status = outer.statuses.pop(0) if outer.statuses else 200
                self.send_response(status)
                self.send_header("content-length", "0")
                self.send_header("location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), OwnHandler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def make_sender(testbed: PullTestbed) -> WebhookSender:
    sender = build_webhook_sender(testbed.settings, testbed.client)
    assert sender is not None
    return sender


@pytest.fixture
def hooked(
    make_testbed: Callable[..., PullTestbed],
    registry: Registry,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> PullTestbed:
    """A testbed whose webhook is the receiver."""
    monkeypatch.setattr("services.puller.webhook._RETRY_SECONDS", 0)
    return make_testbed(ollama_registry=registry.url, pull_webhook_url=receiver.url)


@pytest.mark.parametrize("statuses", [[], [500, 302]], ids=["at once", "at the third attempt"])
def test_the_webhook_receives_the_end_of_a_job(
    hooked: PullTestbed, receiver: Receiver, statuses: list[int]
) -> None:
    receiver.statuses = list(statuses)

    job = hooked.pull("tiny:f16")
    make_sender(hooked).send_ended()
    make_sender(hooked).send_ended()

    assert len(receiver.on_result) == len(statuses) + 1
    assert receiver.on_result[-1] == {
        "event": "pull.ended",
        "job": {
            "id": job.id,
            "model": "tiny:f16",
            "state": "done",
            "downloaded_bytes": job.downloaded_bytes,
            "total_bytes": job.total_bytes,
            "error": None,
            "error_code": None,
            "ended_at": job.ended_at,
        },
    }


def test_the_webhook_receives_ends_that_no_worker_brought_about(
    hooked: PullTestbed, receiver: Receiver
) -> None:
    queued = hooked.submit("tiny:f16")
    hooked.commands.cancel(queued.id)
    dying = hooked.submit("other:f16")
    assert hooked.job_store.claim(dying.id, dying.ticket, "host:17:x") is not None
    Maintenance(hooked.job_store, hooked.job_queue, hooked.store, max_attempts=1).requeue_jobs(
        ["host:17:"]
    )
    forgotten = hooked.submit("third:f16")
    hooked.commands.cancel(forgotten.id)
    hooked.commands.forget(forgotten.id)

    make_sender(hooked).send_ended()

    sent = [event["job"] for event in receiver.on_result]
    assert [(job["id"], job["state"]) for job in sent] == [
        (queued.id, "cancelled"),
        (dying.id, "failed"),
    ]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://[broken/"])
def test_a_failing_webhook_is_only_logged(
    make_testbed: Callable[..., PullTestbed],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    monkeypatch.setattr("services.puller.webhook._RETRY_SECONDS", 0)
    testbed = make_testbed(ollama_registry=registry.url, pull_webhook_url=url)

    assert testbed.pull("tiny:f16").state is JobState.DONE
    make_sender(testbed).send_ended()
    assert testbed.job_store.take_ended() is None
