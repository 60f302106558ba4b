"""The threads of a store leave the processor to the thread that computes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from tests.engine.runner.kvcache.stores import open_store
from tests.waiting import until


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own here")
def test_readers_and_writer_yield_to_the_thread_that_computes(tmp_path: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    known = set(threading.enumerate())
    with open_store(disk=tmp_path / "disk"):
        started = [each for each in threading.enumerate() if each not in known]

        assert {each.name for each in started} == {
            "cache-reader-0",
            "cache-reader-1",
            "cache-writer",
        }
        until(lambda: all(niceness(each) > before for each in started))
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def niceness(thread: threading.Thread) -> int:
    assert thread.native_id is not None
    return os.getpriority(os.PRIO_PROCESS, thread.native_id)
