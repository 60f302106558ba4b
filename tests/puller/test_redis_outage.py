"""A pull survives a Redis that hangs, or that is killed and starts again from its own file."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.shared.pulls.job import JobState
from tests.conftest import RedisServer
from tests.fakes.registries.faults import Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.formats.gguf.writer import TENSORS, TensorSpec, write_gguf
from tests.puller.processes import PullerProcess, wait_for, wait_for_end, wait_until_running

SIZE = 40 << 20  # three pieces
AOF = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this test alone, which keeps what it has acknowledged."""
    with tempfile.TemporaryDirectory(prefix="spd-") as folder:
        server = RedisServer(Path(folder), *AOF)
        yield server
        server.stop()


@pytest.fixture
def model(registry: Registry) -> bytes:
    """`big:latest` of the registry."""
    data = write_gguf(tensors=[*TENSORS, TensorSpec("blk.0.ffn_up.weight", (1024, SIZE // 4096))])
    data = data[: len(data) - SIZE] + random.Random(1).randbytes(SIZE)
    registry.add_model("library/big:latest", {"model": data})
    return data


@pytest.fixture
def puller(testbed: PullTestbed) -> Iterator[PullerProcess]:
    puller = PullerProcess(testbed, PULL_CONNECTIONS="4", PULL_TIMEOUT_SECONDS="2")
    yield puller
    puller.stop()


def kill_and_restart(server: RedisServer, meanwhile: Callable[[], object]) -> None:
    server.kill()
    meanwhile()
    server.start()


def freeze(server: RedisServer, meanwhile: Callable[[], object]) -> None:
    with server.frozen():
        meanwhile()


@pytest.mark.parametrize("stop", [kill_and_restart, freeze])
@pytest.mark.usefixtures("puller")
def test_a_download_goes_on_without_redis_and_is_recorded_after_it(
    testbed: PullTestbed,
    cdn: LoopbackServer,
    model: bytes,
    redis_server: RedisServer,
    stop: Callable[[RedisServer, Callable[[], object]], None],
) -> None:
    # Each connection stalls once, so that Redis is gone in the middle of the download.
    digest = sha256_digest(model)
    cdn.plan.faults = [Fault(path_part=digest, stall_at=1 << 20, times=3)]
    job = testbed.submit("big:latest")
    wait_until_running(testbed, job, min_bytes=1 << 20)

    stop(redis_server, lambda: wait_for(lambda: cdn.sent_bytes >= len(model)))
    done = wait_for_end(testbed, job)

    assert (done.state, done.error) == (JobState.DONE, None)
    manifest = testbed.store.resolve("big")
    assert testbed.store.model_path(manifest).read_bytes() == model
    assert cdn.sent_bytes <= 1.2 * len(model)
