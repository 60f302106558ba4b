"""Downloads from a real server with planned faults."""

from __future__ import annotations

import hashlib
import itertools
import threading
from pathlib import Path

import pytest

from services.puller.download import range_workers
from services.puller.download.partial_file import PartialFile
from services.puller.download.retry import RetryPolicy
from services.puller.transport.address import Address
from services.puller.transport.range_response import ContentChanged
from services.puller.transport.session_pool import SessionPool
from services.shared.errors import PullFailed, SourceUnavailable
from tests.fakes.registries.faults import ALWAYS, Fault, FaultPlan
from tests.fakes.registries.server import Handler, LoopbackServer
from tests.puller.download.runs import (
    DATA,
    SHA256,
    SIZE,
    make_download,
)


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
    empty = make_download(server, partial, size_bytes=0)

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


def test_a_redirect_is_followed_once_and_its_target_serves_all_ranges(
    server: LoopbackServer, partial: PartialFile
) -> None:
    with LoopbackServer() as origin:
        origin.handler = lambda request, path: request.redirect(f"{server.url}/file")
        secret = Address(f"{origin.url}/file", {"Authorization": "Bearer secret"})
        running = make_download(secret, partial, connections=1, retry_policy=RetryPolicy())

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
    running = make_download(address, partial, connections=1)

    assert running.run() == SHA256
    assert server.paths().count("/there") == 6


def test_an_expired_link_is_requested_from_the_origin_again(
    server: LoopbackServer, partial: PartialFile
) -> None:
    with LoopbackServer() as origin:
        origin.handler = lambda request, path: request.redirect(f"{server.url}/file")
        server.plan.faults = [Fault(status=403, after=2)]
        running = make_download(
            origin, partial, connections=1, retry_policy=RetryPolicy(backoff_seconds=0.001)
        )

        assert running.run() == SHA256
        assert len(origin.requests) == 2
