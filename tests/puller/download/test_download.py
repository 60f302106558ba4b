"""Downloads from a real server with planned faults."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.puller.download import progress, range_workers, state_saver
from services.puller.download.download import Download
from services.puller.download.partial_file import PartialFile, ResumeState, boot_id
from services.puller.download.retry import RetryPolicy
from services.puller.download.throttle import Throttle
from services.puller.transport.address import Address
from services.puller.transport.range_response import ContentChanged
from services.puller.transport.session_pool import SessionPool
from services.shared.errors import PullFailed, SourceUnavailable
from services.shared.store import durable
from services.shared.store.layout import state_paths
from tests.fakes.registries.faults import ALWAYS, Fault, FaultPlan
from tests.fakes.registries.server import Handler, LoopbackServer

SIZE = 3_000_000
DATA = random.Random(1).randbytes(SIZE)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
FAST_RETRIES = RetryPolicy(
    timeout_seconds=0.5, max_failures=6, min_progress_bytes=10_000, backoff_seconds=0.001
)


POOL = SessionPool(timeout_seconds=0.5)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "choose_piece_bytes", lambda size_bytes: 500_000)
    monkeypatch.setattr(range_workers, "choose_request_bytes", lambda bytes_per_second: 500_000)
    yield
    POOL.close()


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


def make_download(
    server: LoopbackServer, partial: PartialFile, *, path: str = "/file", **changes: Any
) -> Download:
    options = {
        "has_digest": True,
        "connections": 3,
        "sessions": POOL,
        "retry_policy": FAST_RETRIES,
        "throttle": Throttle(),
        "on_progress": lambda done_bytes: None,
    }
    return Download(partial, Address(f"{server.url}{path}"), SIZE, **{**options, **changes})


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
        has_digest=True,
        connections=3,
        sessions=POOL,
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


class Stop(Exception):
    pass


def stop_at(n_bytes: int) -> Any:
    def on_progress(done_bytes: int) -> None:
        if done_bytes >= n_bytes:
            raise Stop

    return on_progress


class AlternatingEtags(FaultPlan):
    """Every second response comes from another node of the content network."""

    def __init__(self, etags: tuple[str | None, ...]) -> None:
        super().__init__()
        self._etags = itertools.cycle(etags)

    def take(self, path: str) -> Fault:
        return Fault(etag=next(self._etags))


@pytest.mark.parametrize("etags", [('"a"', '"b"'), ('"a"', ""), ("",)], ids=str)
def test_with_a_digest_no_etag_matters(
    server: LoopbackServer, partial: PartialFile, etags: tuple[str | None, ...]
) -> None:
    server.plan = AlternatingEtags(etags)

    assert make_download(server, partial).run() == SHA256
    assert server.sent_bytes == SIZE
    assert all("if-range" not in request.headers for request in server.requests)


def test_without_a_digest_one_connection_asks_for_the_same_version(
    server: LoopbackServer, partial: PartialFile
) -> None:
    assert make_download(server, partial, has_digest=False).run() == SHA256

    first, *later = [request.headers.get("if-range") for request in server.requests]
    assert first is None
    assert set(later) == {f'"{hashlib.md5(DATA).hexdigest()}"'}


def test_without_a_digest_another_version_ends_the_run(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(etag='"other"', times=ALWAYS, after=2)]

    with pytest.raises(ContentChanged):
        make_download(server, partial, has_digest=False).run()


def test_a_source_that_ignores_ranges_is_read_once(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(ignores_range=True, times=ALWAYS)]

    assert make_download(server, partial, connections=1).run() == SHA256
    assert server.sent_bytes == SIZE


def test_a_resumed_download_keeps_its_bytes_when_the_source_ignores_ranges(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(stall_at=300_000, times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, on_progress=stop_at(900_000)).run()
    state = partial.read_resume_state()
    assert state is not None
    server.plan.faults = [Fault(ignores_range=True, etag='"other"', times=ALWAYS)]

    resumed = make_download(server, partial, connections=1)

    assert resumed._progress.done_bytes == sum(state.done)
    assert resumed.run() == SHA256


def test_without_digest_and_version_nothing_is_resumed(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(stall_at=300_000, etag="", times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, has_digest=False, on_progress=stop_at(300_000)).run()

    assert not make_download(server, partial, has_digest=False).is_resumed


def test_a_login_page_instead_of_the_file_is_worth_a_retry(
    server: LoopbackServer, partial: PartialFile
) -> None:
    pages = iter(range(3))

    def answer(request: Handler, path: str) -> None:
        if next(pages, None) is not None:
            request.reply(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
        else:
            request.serve(DATA)

    server.handler = answer

    assert make_download(server, partial, connections=1).run() == SHA256


def test_a_large_request_spans_several_pieces(
    server: LoopbackServer, partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_workers, "choose_request_bytes", lambda speed: 1_000_000)

    assert make_download(server, partial, connections=2).run() == SHA256
    assert "bytes=0-999999" in {request.range for request in server.requests}


def test_the_next_file_uses_the_same_connections(server: LoopbackServer, tmp_path: Path) -> None:
    sessions = SessionPool(timeout_seconds=5.0)
    for name in ("one.partial", "two.partial"):
        partial = PartialFile.lock(tmp_path / name)
        assert partial is not None
        assert make_download(server, partial, sessions=sessions).run() == SHA256
        partial.close()

    sessions.close()
    assert server.connections <= 3


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


def test_a_file_without_a_digest_that_changed_between_two_runs_is_noticed(
    server: LoopbackServer, partial: PartialFile
) -> None:
    server.plan.faults = [Fault(stall_at=300_000, times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, has_digest=False, on_progress=stop_at(300_000)).run()
    server.files["/file"] = bytes(reversed(DATA))
    server.plan.faults = []

    with pytest.raises(ContentChanged):
        make_download(server, partial, has_digest=False).run()


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


def test_after_a_power_cut_an_empty_newest_state_falls_back_to_the_synced_one(
    server: LoopbackServer, partial: PartialFile
) -> None:
    os.ftruncate(partial.fd, SIZE)
    os.pwrite(partial.fd, DATA[:200_000], 0)
    state = ResumeState(
        size_bytes=SIZE,
        piece_bytes=500_000,
        etag=None,
        boot="another",
        done=(500_000, 0, 0, 0, 0, 0),
        synced=(200_000, 0, 0, 0, 0, 0),
    )
    partial.write_resume_state(state, is_durable=True)
    state_paths(partial.path)[1].write_bytes(b"")

    assert make_download(server, partial).run() == SHA256
    assert server.sent_bytes == SIZE - 200_000


def test_a_slow_sync_does_not_delay_a_stop(
    server: LoopbackServer, partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_saver, "_SAVE_SECONDS", 0.01)
    monkeypatch.setattr(state_saver, "_SYNC_SECONDS", 0.0)
    monkeypatch.setattr(state_saver, "_STOP_SECONDS", 0.05)
    began, released = threading.Event(), threading.Event()

    def slow_sync(fd: int) -> None:
        began.set()
        assert released.wait(30)

    monkeypatch.setattr(durable, "sync", slow_sync)
    server.plan.faults = [Fault(stall_at=100_000, times=ALWAYS)]

    def stop_in_the_sync(done_bytes: int) -> None:
        if began.is_set():
            raise Stop

    running = make_download(server, partial, on_progress=stop_in_the_sync)
    with pytest.raises(Stop):
        running.run()

    assert not released.is_set()
    assert partial.read_resume_state() is not None
    released.set()
    running._saver._thread.join(30)


def test_a_stop_does_not_wait_for_a_connection_that_is_not_made(
    partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, released = threading.Event(), threading.Event()

    def hang(connection: http.client.HTTPConnection) -> None:
        connecting.set()
        assert released.wait(30)
        raise OSError

    monkeypatch.setattr(http.client.HTTPConnection, "connect", hang)

    def stop_when_connecting(done_bytes: int) -> None:
        if connecting.is_set():
            raise Stop

    running = Download(
        partial,
        Address("http://127.0.0.1:1/file"),
        SIZE,
        has_digest=True,
        connections=2,
        sessions=POOL,
        retry_policy=FAST_RETRIES,
        throttle=Throttle(),
        on_progress=stop_when_connecting,
    )
    with pytest.raises(Stop):
        running.run()

    assert not released.is_set()
    released.set()


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
            has_digest=True,
            connections=1,
            sessions=POOL,
            retry_policy=RetryPolicy(),
            throttle=Throttle(),
            on_progress=lambda done_bytes: None,
        )

        assert running.run() == SHA256
        assert len(origin.requests) == 1
        assert origin.requests[0].headers["authorization"] == "Bearer secret"
        assert all("authorization" not in request.headers for request in server.requests)


def test_the_secret_is_sent_to_each_request_that_is_redirected_in_place(
    server: LoopbackServer, partial: PartialFile
) -> None:
    def answer(request: Handler, path: str) -> None:
        if request.headers.get("authorization") != "Bearer secret":
            request.reply(401, b"")
        elif path == "/file":
            request.redirect("/there")
        else:
            request.serve(DATA)

    server.handler = answer
    address = Address(f"{server.url}/file", {"Authorization": "Bearer secret"})
    running = Download(
        partial,
        address,
        SIZE,
        has_digest=True,
        connections=1,
        sessions=POOL,
        retry_policy=FAST_RETRIES,
        throttle=Throttle(),
        on_progress=lambda done_bytes: None,
    )

    assert running.run() == SHA256
    assert server.paths().count("/there") == 6


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
            has_digest=True,
            connections=1,
            sessions=POOL,
            retry_policy=RetryPolicy(backoff_seconds=0.001),
            throttle=Throttle(),
            on_progress=lambda done_bytes: None,
        )

        assert running.run() == SHA256
        assert len(origin.requests) == 2
