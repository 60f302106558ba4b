"""Sessions of processes, with real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from services.cli.supervise.process_sessions import (
    kill_processes_with_environment,
    kill_session,
    session_members,
)
from tests.waiting import SECONDS, processes_with_environment, until

SLEEP = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"


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
