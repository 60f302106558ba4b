"""A process that is killed while it writes leaves whole entries, and files that a sweep removes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from services.engine.kv_entry import remove_stale_temporary_files
from tests.engine.runner.kvcache.stores import (
    KEY,
    entry_files,
    find_texts,
    make_tokens,
    open_store,
    rejections,
    take_all,
)
from tests.engine.runner.kvcache.writing_process import BLOCKS, CANARY, build_state

ROUNDS = 20
ALL_ROUNDS = 200
COMMAND = [sys.executable, "-m", "tests.engine.runner.kvcache.writing_process"]


class WritingProcesses:
    """Starts processes that save, one after the other, and kills them."""

    def __init__(self, folder: Path) -> None:
        command = [*COMMAND, str(folder)]
        self._parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate(timeout=30)

    def kill_while_writing(self, seed: int, after_seconds: float) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{seed}\n")
        self._parent.stdin.flush()
        lines = {self._parent.stdout.readline().strip() for _ in range(2)}
        (process,) = lines - {"begun"}
        time.sleep(after_seconds)  # any moment will do
        os.kill(int(process), signal.SIGKILL)
        assert self._parent.stdout.readline() == "ended\n"


def check_folder(folder: Path, seed: int) -> int:
    """No plaintext, no orphan, no wrong answer; returns how many temporary files there were."""
    canaries = [CANARY, np.array(make_tokens(8, seed=seed * 100), "<i4").tobytes()]
    assert find_texts(folder, canaries) == []
    removed = remove_stale_temporary_files(folder, older_than_seconds=3600)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(files) == entry_files(folder)
    states = [build_state(block) for block in range(BLOCKS)]
    with open_store(disk=folder, write="never") as store:
        for number in range(3):
            chain = store.open_chain([KEY], make_tokens(256 * BLOCKS, seed=seed * 100 + number))
            taken = take_all(store, chain)
            assert taken == states[: len(taken)]
        assert rejections(store) == []
    return removed


def run_rounds(folder: Path, rounds: range) -> None:
    folder.mkdir(exist_ok=True)
    moments = random.Random(0)
    removed = 0
    with WritingProcesses(folder) as processes:
        for seed in rounds:
            processes.kill_while_writing(seed, moments.uniform(0, 0.05))
            removed += check_folder(folder, seed)
            for path in entry_files(folder)[::2]:  # the folder does not grow without end
                path.unlink()
    assert removed > 0  # or no process was killed in the middle of a file


def test_a_killed_writer_leaves_no_wrong_answer(tmp_path: Path) -> None:
    run_rounds(tmp_path / "disk", range(ROUNDS))


@pytest.mark.slow
def test_200_killed_writers_leave_no_wrong_answer(tmp_path: Path) -> None:
    run_rounds(tmp_path / "disk", range(ALL_ROUNDS))


def test_the_canary_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" + CANARY)
    (tmp_path / CANARY.decode()).touch()

    assert find_texts(tmp_path, [CANARY, b"other"]) == [CANARY]
