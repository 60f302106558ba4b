"""Logs, ports, process sessions and the lock, with real files and processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import logfiles, state_file
from services.cli.supervise.checks import preflight
from services.cli.supervise.checks.preflight import require_disk_space, require_free_port
from services.cli.supervise.process_sessions import (
    kill_processes_with_environment,
    kill_session,
    session_members,
)
from tests.waiting import SECONDS, free_port, processes_with_environment, until

SLEEP = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"


def append(log: Path, text: str) -> None:
    descriptor = logfiles.open_log(log)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def test_a_log_is_opened_for_appending(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    append(log, "one\n")
    append(log, "two\n")

    assert log.read_text() == "one\ntwo\n"


def test_a_large_log_is_rotated_and_the_last_three_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "MAX_BYTES", 3)
    log = tmp_path / "api.log"
    for text in ("1111", "2222", "3333", "4444", "5555"):
        append(log, text)

    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "api.log": "5555",
        "api.log.1": "4444",
        "api.log.2": "3333",
        "api.log.3": "2222",
    }


def test_a_log_that_grows_while_it_is_open_is_truncated_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "MAX_BYTES", 3)
    log = tmp_path / "api.log"
    descriptor = logfiles.open_log(log)
    os.write(descriptor, b"1111")

    assert logfiles.rotate_in_place(log)
    assert not logfiles.rotate_in_place(log)
    os.write(descriptor, b"22")
    os.close(descriptor)
    assert (log.read_text(), (tmp_path / "api.log.1").read_text()) == ("22", "1111")


@pytest.mark.parametrize(
    ("since", "lines"), [(0, ["b", "c"]), (4, ["c"]), (6, []), (99, ["b", "c"])]
)
def test_the_last_lines_of_a_log(tmp_path: Path, since: int, lines: list[str]) -> None:
    log = tmp_path / "api.log"
    log.write_text("a\nb\nc\n")

    assert logfiles.last_lines(log, 2, since_byte=since) == lines


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert logfiles.last_lines(tmp_path / "api.log", 2) == []


def test_the_error_for_a_taken_port_names_its_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(CommandError) as error:
            require_free_port("127.0.0.1", port, "--port")
    assert error.value.message == (
        f"port {port} is taken by {psutil.Process().name()} (process {os.getpid()}):"
        " choose another with --port"
    )


def test_a_free_port_is_accepted() -> None:
    require_free_port("127.0.0.1", free_port(), "--port")


def test_an_almost_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_disk_space(tmp_path)
    monkeypatch.setattr(preflight, "FREE_BYTES_NEEDED", 1 << 60)

    with pytest.raises(CommandError, match=r"is full \(\d+ MB free\)"):
        require_disk_space(tmp_path)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"], ids=["no address", "not ours"])
def test_an_address_of_another_host_is_refused(host: str) -> None:
    with pytest.raises(CommandError, match=host):
        require_free_port(host, free_port(), "--port")


def start_family(**environment: str) -> subprocess.Popen[bytes]:
    family = subprocess.Popen(
        [sys.executable, "-c", SLEEP],
        env={"PATH": os.environ["PATH"], **environment},
        start_new_session=True,
    )
    until(lambda: len(session_members(family.pid)) == 2)
    return family


def test_killing_a_session_ends_the_children_of_a_dead_leader() -> None:
    family = start_family()
    family.kill()
    family.wait()

    assert kill_session(family.pid) == 1
    until(lambda: session_members(family.pid) == [])


def test_leftover_processes_are_found_by_their_environment(tmp_path: Path) -> None:
    ours = start_family(SPINDLL_STACK=str(tmp_path))
    theirs = start_family(SPINDLL_STACK=str(tmp_path / "other"))
    try:
        assert kill_processes_with_environment({"SPINDLL_STACK": str(tmp_path)}) == 2
        assert ours.wait(SECONDS) == -signal.SIGKILL
        until(lambda: processes_with_environment("SPINDLL_STACK", str(tmp_path)) == [])
        assert len(session_members(theirs.pid)) == 2
    finally:
        kill_session(theirs.pid)
        theirs.wait()


def test_the_lock_is_held_until_the_last_holder_closes_it(tmp_path: Path) -> None:
    paths = StackPaths(tmp_path)
    paths.make_dirs()
    lock = state_file.take_lock(paths)
    assert lock is not None
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, pass_fds=(lock,))
    assert state_file.take_lock(paths) is None
    os.close(lock)

    assert state_file.is_locked(paths)
    heir.communicate(b"\n")
    assert state_file.wait_until_gone(paths, SECONDS)
