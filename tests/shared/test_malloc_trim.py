from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import psutil
import pytest

from services.shared.malloc_trim import start_trimming
from tests.waiting import until

BLOCKS, BLOCK_BYTES = 20_000, 3_000

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

needs_glibc = pytest.mark.skipif(
    not hasattr(libc, "malloc_trim"), reason="this C library has no malloc_trim"
)


def resident() -> int:
    size: int = psutil.Process().memory_info().rss
    return size


@pytest.fixture
def scattered() -> Iterator[int]:
    """Resident bytes while 60 MB of the heap are free, but below blocks in use."""
    blocks = [libc.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        libc.memset(block, 1, BLOCK_BYTES)
    kept = blocks[:: BLOCKS // 20] + blocks[-1:]
    for block in set(blocks) - set(kept):
        libc.free(block)
    yield resident()
    for block in set(kept):
        libc.free(block)


@needs_glibc
def test_free_memory_below_blocks_in_use_is_returned(scattered: int) -> None:
    stopped = start_trimming(seconds=0.01)
    until(lambda: resident() < scattered - BLOCKS * BLOCK_BYTES // 2, "no memory was returned")
    stopped.set()


@needs_glibc
def test_trimming_ends_when_the_event_is_set() -> None:
    before = set(threading.enumerate())
    stopped = start_trimming(seconds=3600)
    (thread,) = set(threading.enumerate()) - before
    stopped.set()
    thread.join(10)

    assert not thread.is_alive()
