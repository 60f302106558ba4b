"""Downloads that stop, by a request, a crash or a power cut, and continue."""

from __future__ import annotations

import http.client
import os
import threading

import pytest

from services.puller.download import state_saver
from services.puller.download.partial_file import PartialFile, ResumeState, boot_id
from services.puller.transport.address import Address
from services.puller.transport.range_response import ContentChanged
from services.shared.store import durable
from services.shared.store.layout import state_paths
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.server import LoopbackServer
from tests.puller.download.runs import (
    DATA,
    SHA256,
    SIZE,
    Stop,
    make_download,
    stop_at,
)


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

    running = make_download(
        Address("http://127.0.0.1:1/file"), partial, connections=2, on_progress=stop_when_connecting
    )
    with pytest.raises(Stop):
        running.run()

    assert not released.is_set()
    released.set()


def test_a_partial_file_has_one_owner(partial: PartialFile) -> None:
    assert PartialFile.lock(partial.path) is None
