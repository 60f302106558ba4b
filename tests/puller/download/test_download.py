"""A download against a real server that fails as planned."""

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
from services.puller.download.partial_file import Notes, Partial, boot_id
from services.puller.download.retry import Limits
from services.puller.download.throttle import Pace
from services.puller.transport.http_client import Address
from services.shared.errors import PullFailed, SourceUnavailable
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.server import LoopbackServer

SIZE = 3_000_000
DATA = random.Random(1).randbytes(SIZE)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
QUICK = Limits(
    connections=3, timeout_seconds=0.5, tries=6, worth_bytes=10_000, backoff_seconds=0.001
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "piece_bytes_for", lambda size_bytes: 500_000)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        running.files["/file"] = DATA
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[Partial]:
    opened = Partial.lock(tmp_path / "file.partial")
    assert opened is not None
    yield opened
    opened.close()


def make_download(server: LoopbackServer, partial: Partial, **changes: Any) -> Download:
    options = {"limits": QUICK, "pace": Pace(), "watch": lambda done: None}
    return Download(partial, Address(f"{server.url}/file"), SIZE, **{**options, **changes})


def test_a_file_arrives_in_ranges_and_is_hashed(server: LoopbackServer, partial: Partial) -> None:
    digest = make_download(server, partial).run()

    assert digest == SHA256
    assert partial.path.read_bytes() == DATA
    assert sorted(seen.range or "" for seen in server.seen) == sorted(
        f"bytes={start}-{start + 499_999}" for start in range(0, SIZE, 500_000)
    )


def test_an_empty_file_needs_no_request(server: LoopbackServer, partial: Partial) -> None:
    empty = Download(
        partial, Address(f"{server.url}/file"), 0, limits=QUICK, pace=Pace(), watch=lambda _: None
    )

    assert empty.run() == f"sha256:{hashlib.sha256(b'').hexdigest()}"
    assert server.seen == []


MENDED = {
    "cut short": Fault(cut_at=100_000, times=5),
    "cut at the first byte": Fault(cut_at=0, times=3),
    "stalled": Fault(stall_at=1000, times=2),
    "dripping": Fault(drip=True, times=2),
    "500 five times": Fault(status=500, times=5),
    "503 with Retry-After": Fault(status=503, retry_after="0", times=2),
    "429": Fault(status=429, times=3),
    "408": Fault(status=408, times=2),
    "no ranges": Fault(no_range=True, times=ALWAYS),
    "no ranges after a while": Fault(no_range=True, times=ALWAYS, after=2),
    "a changed ETag": Fault(etag='"other"', times=1, after=2),
    "other bytes than asked": Fault(shifted_range=True, times=2),
}


@pytest.mark.parametrize("fault", MENDED.values(), ids=MENDED.keys())
def test_a_fault_that_passes_is_survived(
    server: LoopbackServer, partial: Partial, fault: Fault
) -> None:
    server.plan.faults = [fault]

    assert make_download(server, partial).run() == SHA256
    assert partial.path.read_bytes() == DATA


LASTING = {
    "always cut": (Fault(cut_at=10, times=ALWAYS), SourceUnavailable, "less than it announced"),
    "always stalled": (Fault(stall_at=0, times=ALWAYS), SourceUnavailable, "broke"),
    "always 500": (Fault(status=500, times=ALWAYS), SourceUnavailable, "HTTP 500"),
    "cut without ranges": (
        Fault(no_range=True, cut_at=9000, times=ALWAYS),
        SourceUnavailable,
        "less than it announced",
    ),
    "401": (Fault(status=401, times=ALWAYS), PullFailed, "private or gated"),
    "403": (Fault(status=403, times=ALWAYS), PullFailed, "private or gated"),
    "404": (Fault(status=404, times=ALWAYS), PullFailed, "does not have this file"),
    "a longer file": (Fault(length_off_by=7, times=ALWAYS), PullFailed, "3000007 bytes where"),
    "a shorter file": (Fault(length_off_by=-7, times=ALWAYS), PullFailed, "2999993 bytes where"),
}


@pytest.mark.parametrize(("fault", "error", "words"), LASTING.values(), ids=LASTING.keys())
def test_a_fault_that_lasts_ends_the_download_and_says_why(
    server: LoopbackServer,
    partial: Partial,
    fault: Fault,
    error: type[Exception],
    words: str,
) -> None:
    server.plan.faults = [fault]

    with pytest.raises(error, match=words):
        make_download(server, partial).run()


def test_a_file_that_keeps_changing_is_given_up(server: LoopbackServer, partial: Partial) -> None:
    server.plan.faults = [Fault(etag=f'"{i}"') for i in range(100)]

    with pytest.raises(PullFailed, match="keeps changing"):
        make_download(server, partial, limits=Limits(connections=1)).run()


def test_with_a_digest_to_decide_changing_etags_are_borne(
    server: LoopbackServer, partial: Partial
) -> None:
    server.plan.faults = [Fault(etag=f'"{i}"') for i in range(100)]

    assert make_download(server, partial, ignore_etag_changes=True).run() == SHA256


def test_retry_after_is_waited_for(server: LoopbackServer, partial: Partial) -> None:
    server.plan.faults = [Fault(status=429, retry_after="1", times=ALWAYS)]
    waited: list[float | None] = []

    class Watching(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout)
            return super().wait(0)

    running = make_download(server, partial)
    running._book.halted = Watching()
    with pytest.raises(SourceUnavailable):
        running.run()

    assert set(waited) == {1.0}


class Stop(Exception):
    pass


def stop_at(n_bytes: int) -> Any:
    def watch(done_bytes: int) -> None:
        if done_bytes >= n_bytes:
            raise Stop

    return watch


def test_a_stopped_download_goes_on_where_it_was(server: LoopbackServer, partial: Partial) -> None:
    server.plan.faults = [Fault(stall_at=300_000, times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, watch=stop_at(900_000)).run()
    server.plan.faults = []
    server.sent_bytes = 0

    resumed = make_download(server, partial)

    assert resumed.run() == SHA256
    assert resumed.is_resumed
    assert server.sent_bytes == SIZE - 900_000


def test_a_file_that_changed_while_nobody_looked_starts_over(
    server: LoopbackServer, partial: Partial
) -> None:
    server.plan.faults = [Fault(stall_at=300_000, times=ALWAYS)]
    with pytest.raises(Stop):
        make_download(server, partial, watch=stop_at(900_000)).run()
    other = bytes(reversed(DATA))
    server.files["/file"] = other
    server.plan.faults = []

    assert make_download(server, partial).run() == f"sha256:{hashlib.sha256(other).hexdigest()}"


def test_after_a_power_cut_only_synced_bytes_count(
    server: LoopbackServer, partial: Partial
) -> None:
    os.ftruncate(partial.fd, SIZE)
    os.pwrite(partial.fd, DATA[:200_000], 0)
    pieces = [0] * 6
    partial.write_notes(
        Notes(
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
def test_unreadable_notes_start_over(server: LoopbackServer, partial: Partial, raw: bytes) -> None:
    partial.path.with_name(f"{partial.path.name}.json").write_bytes(raw)

    assert make_download(server, partial).run() == SHA256


def test_notes_of_the_same_boot_are_believed(server: LoopbackServer, partial: Partial) -> None:
    os.pwrite(partial.fd, DATA[:500_000], 0)
    done = (500_000, 0, 0, 0, 0, 0)
    partial.write_notes(
        Notes(
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


def test_a_partial_has_one_owner(partial: Partial) -> None:
    assert Partial.lock(partial.path) is None


def test_a_redirect_is_followed_once_and_its_target_used_for_all_ranges(
    server: LoopbackServer, partial: Partial
) -> None:
    with LoopbackServer() as origin:
        origin.answers = lambda request, path: request.redirect(f"{server.url}/file")
        secret = Address(f"{origin.url}/file", {"Authorization": "Bearer secret"})
        running = Download(
            partial,
            secret,
            SIZE,
            limits=Limits(connections=1),
            pace=Pace(),
            watch=lambda done: None,
        )

        assert running.run() == SHA256
        assert len(origin.seen) == 1
        assert origin.seen[0].headers["authorization"] == "Bearer secret"
        assert all("authorization" not in seen.headers for seen in server.seen)


def test_an_expired_link_is_asked_for_again(server: LoopbackServer, partial: Partial) -> None:
    with LoopbackServer() as origin:
        origin.answers = lambda request, path: request.redirect(f"{server.url}/file")
        server.plan.faults = [Fault(status=403, after=2)]
        running = Download(
            partial,
            Address(f"{origin.url}/file"),
            SIZE,
            limits=Limits(connections=1, backoff_seconds=0.001),
            pace=Pace(),
            watch=lambda done: None,
        )

        assert running.run() == SHA256
        assert len(origin.seen) == 2
