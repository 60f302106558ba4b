"""The published state of a stack, and the lock of its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.paths import StackPaths
from services.cli.supervise import state_file
from tests.waiting import SECONDS


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("box.local", "http://box.local:8080"),
    ],
)
def test_the_address_a_client_uses(host: str, url: str) -> None:
    state = state_file.StackState(
        pid=1, phase="ready", host=host, port=8080, grpc_port=50051, started_at=0.0
    )

    assert state.url == url


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
