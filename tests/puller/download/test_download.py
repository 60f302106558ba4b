"""Downloads from a real server with planned faults."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.puller.download import progress
from services.puller.download.download import Download
from services.puller.download.partial_file import PartialFile, ResumeState, boot_id
from services.puller.download.retry import RetryPolicy
from services.puller.download.throttle import Throttle
from services.puller.transport.address import Address
from services.shared.errors import PullFailed, SourceUnavailable
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.server import LoopbackServer

SIZE = 3_000_000
DATA = random.Random(1).randbytes(SIZE)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
FAST_RETRIES = RetryPolicy(
    timeout_seconds=0.5, max_failures=6, min_progress_bytes=10_000, backoff_seconds=0.001
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "choose_piece_bytes", lambda size_bytes: 500_000)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        running.files["/file"] = DATA
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[PartialFile]:
    opened = PartialFile.lock(tmp_path / "file.partial")
    assert opened is not None
    yield opened
    opened.close()


def make_download(server: LoopbackServer, partial: PartialFile, **changes: Any) -> Download:
    options = {
        "connections": 3,
        "retry_policy": FAST_RETRIES,
        "throttle": Throttle(),
        "on_progress": lambda done_bytes: None,
    }
    return Download(partial, Address(f"{server.url}/file"), SIZE, **{**options, **changes})


def test_a_file_is_downloaded_in_ranges_and_hashed(
    server: LoopbackServer, partial: PartialFile
) -> None:
    digest = make_download(server, partial).run()

    assert digest == SHA256
    assert partial.path.read_bytes() == DATA
    assert sorted(request.range or "" for request in server.requests) == sorted(
        f"bytes={start}-{start + 499_999}" for start in range(0, SIZE, 500_000)
    )


def test_an_empty_file_needs_no_request(server: LoopbackServer, partial: PartialFile) -> None:
    empty = Download(
        partial,
        Address(f"{server.url}/file"),
        0,
        connections=3,
        retry_policy=FAST_RETRIES,
        throttle=Throttle(),
        on_progress=lambda done_bytes: None,
    )

    assert empty.run() == f"sha256:{hashlib.sha256(b'').hexdigest()}"
    assert server.requests == []


TEMPORARY_FAULTS = {
    "cut short": Fault(cut_at=100_000, times=5),
    "cut at the first byte": Fault(cut_at=0, times=3),
    "stalled": Fault(stall_at=1000, times=2),
    "dripping": Fault(drips=True, times=2),
    "500 five times": Fault(status=500, times=5),
    "503 with Retry-After": Fault(status=503, retry_after="0", times=2),
    "429": Fault(status=429, times=3),
    "408": Fault(status=408, times=2),
    "no ranges": Fault(ignores_range=True, times=ALWAYS),
    "no ranges after a while": Fault(ignores_range=True, times=ALWAYS, after=2),
    "a changed ETag": Fault(etag='"other"', times=1, after=2),
    "another range than requested": Fault(shifts_range=True, times=2),
}


@pytest.mark.parametrize("fault", TEMPORARY_FAULTS.values(), ids=TEMPORARY_FAULTS.keys())
def test_a_temporary_fault_does_not_fail_the_download(
    server: LoopbackServer, partial: PartialFile, fault: Fault
) -> None:
    server.plan.faults = [fault]

    assert make_download(server, partial).run() == SHA256
    assert partial.path.read_bytes() == DATA


PERMANENT_FAULTS = {
    "always cut": (
        Fault(cut_at=10, times=ALWAYS),
        SourceUnavailable,
        "fewer bytes than it announced",
    ),
    "always stalled": (Fault(stall_at=0, times=ALWAYS), SourceUnavailable, "broke"),
    "always 500": (Fault(status=500, times=ALWAYS), SourceUnavailable, "HTTP 500"),
    "cut without ranges": (
        Fault(ignores_range=True, cut_at=9000, times=ALWAYS),
        SourceUnavailable,
        "fewer bytes than it announced",
    ),
    "401": (Fault(status=401, times=ALWAYS), PullFailed, "private or gated"),
    "403": (Fault(status=403, times=ALWAYS), PullFailed, "private or gated"),
    "404": (Fault(status=404, times=ALWAYS), PullFailed, "does not have this file"),
    "a longer file": (Fault(length_off_by=7, times=ALWAYS), PullFailed, "3000007 bytes where"),
    "a shorter file": (Fault(length_off_by=-7, times=ALWAYS), PullFailed, "2999993 bytes where"),
}


@pytest.mark.parametrize(
    ("fault", "error", "words"), PERMANENT_FAULTS.values(), ids=PERMANENT_FAULTS.keys()
)
def test_a_permanent_fault_fails_the_download_with_its_reason(
    server: LoopbackServer,
    partial: PartialFile,
    fault: Fault,
    error: type[Exception],
    words: str,
) -> None:
    server.plan.faults = [fault]

    with pytest.raises(error, match=words):
        make_download(server, partial).run()


def test_a_file_that_keeps_changing_fails_the_download(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(etag=f'"{i}"') for i in range(100)]

    with pytest.raises(PullFailed, match="keeps changing"):
        make_download(server, partial, connections=1, retry_policy=RetryPolicy()).run()


def test_changing_etags_can_be_ignored(server: LoopbackServer, partial: PartialFile) -> None:
    server.plan.faults = [Fault(etag=f'"{i}"') for i in range(100)]

    assert make_download(server, partial, ignore_etag_changes=True).run() == SHA256


def test_retry_after_sets_the_wait(server: LoopbackServer, partial: PartialFile) -> None:
    server.plan.faults = [Fault(status=429, retry_after="1", times=ALWAYS)]
    waited: list[float | None] = []

    class RecordingEvent(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            return super().wait(0)

    running = make_download(server, partial)
    running._progress.halted = RecordingEvent()
    with pytest.raises(SourceUnavailable):
        running.run()

    assert set(waited) == {1.0}


class Stop(Exception):
    pass


def stop_at(n_bytes: int) -> Any:
    def on_progress(done_bytes: int) -> None:
        if done_bytes >= n_bytes:
            raise Stop

    return on_progress


def test_a_stopped_download_is_resumed(server: LoopbackServer, partial: PartialFile) -> None:
    server.plan.faults = [Fault(stall_at=300_000, times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, on_progress=stop_at(900_000)).run()
    server.plan.faults = []
    server.sent_bytes = 0

    resumed = make_download(server, partial)

    assert resumed.run() == SHA256
    assert resumed.is_resumed
    assert server.sent_bytes == SIZE - 900_000


def test_a_file_that_changed_between_two_runs_starts_over(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(stall_at=300_000, times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, on_progress=stop_at(900_000)).run()
    other = bytes(reversed(DATA))
    server.files["/file"] = other
    server.plan.faults = []

    assert make_download(server, partial).run() == f"sha256:{hashlib.sha256(other).hexdigest()}"


def test_after_a_power_cut_only_synced_bytes_count(
    server: LoopbackServer, partial: PartialFile
) -> None:
    os.ftruncate(partial.fd, SIZE)
    os.pwrite(partial.fd, DATA[:200_000], 0)
    pieces = [0] * 6
    partial.write_resume_state(
        ResumeState(
            size_bytes=SIZE,
            piece_bytes=500_000,
            etag=None,
            boot="another",
            done=(500_000, 400_000, *pieces[2:]),
            synced=(200_000, *pieces[1:]),
        )
    )

    assert make_download(server, partial).run() == SHA256
    assert server.sent_bytes == SIZE - 200_000


@pytest.mark.parametrize("raw", [b"", b"{", b'{"schema": 9}', b"\xff" * 100])
def test_an_unreadable_resume_state_starts_over(
    server: LoopbackServer, partial: PartialFile, raw: bytes
) -> None:
    partial.path.with_name(f"{partial.path.name}.json").write_bytes(raw)

    assert make_download(server, partial).run() == SHA256


def test_after_a_process_died_unsynced_bytes_count(
    server: LoopbackServer, partial: PartialFile
) -> None:
    os.pwrite(partial.fd, DATA[:500_000], 0)
    done = (500_000, 0, 0, 0, 0, 0)
    partial.write_resume_state(
        ResumeState(
            size_bytes=SIZE,
            piece_bytes=500_000,
            etag=None,
            boot=boot_id(),
            done=done,
            synced=(),
        )
    )

    assert make_download(server, partial).run() == SHA256
    assert server.sent_bytes == SIZE - 500_000


def test_a_partial_file_has_one_owner(partial: PartialFile) -> None:
    assert PartialFile.lock(partial.path) is None


def test_a_redirect_is_followed_once_and_its_target_serves_all_ranges(
    server: LoopbackServer, partial: PartialFile
) -> None:
    with LoopbackServer() as origin:
        origin.handler = lambda request, path: request.redirect(f"{server.url}/file")
        secret = Address(f"{origin.url}/file", {"Authorization": "Bearer secret"})
        running = Download(
            partial,
            secret,
            SIZE,
            connections=1,
            retry_policy=RetryPolicy(),
            throttle=Throttle(),
            on_progress=lambda done_bytes: None,
        )

        assert running.run() == SHA256
        assert len(origin.requests) == 1
        assert origin.requests[0].headers["authorization"] == "Bearer secret"
        assert all("authorization" not in request.headers for request in server.requests)


def test_an_expired_link_is_requested_from_the_origin_again(
    server: LoopbackServer, partial: PartialFile
) -> None:
    with LoopbackServer() as origin:
        origin.handler = lambda request, path: request.redirect(f"{server.url}/file")
        server.plan.faults = [Fault(status=403, after=2)]
        running = Download(
            partial,
            Address(f"{origin.url}/file"),
            SIZE,
            connections=1,
            retry_policy=RetryPolicy(backoff_seconds=0.001),
            throttle=Throttle(),
            on_progress=lambda done_bytes: None,
        )

        assert running.run() == SHA256
        assert len(origin.requests) == 2
