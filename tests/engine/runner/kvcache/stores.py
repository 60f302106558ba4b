"""Stores over folders of a test, and states to put into them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.engine.core import CacheConfig, CacheKey, CacheRejected, CacheWrite
from services.engine.kv_entry import parse_entry_path
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.kvcache.writer import Writer

KEY = CacheKey(b"key of tenant a.", bytes(range(32)))
OTHER_KEY = CacheKey(b"key of tenant b.", bytes(range(1, 33)))
IDENTITY = b"i" * 32
TIMEOUT = 30.0


def make_tokens(count: int, *, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(150_000), k=count)


def make_state(size: int, *, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def make_blocks(count: int) -> dict[tuple[int, int], bytes]:
    return {(k * 256, k * 256 + 256): make_state(100 + k, seed=k) for k in range(count)}


@contextmanager
def open_store(
    *,
    disk: Path | None = None,
    ram: Path | None = None,
    saves_whole: bool = False,
    identity: bytes = IDENTITY,
    write: CacheWrite = "always",
    min_free_bytes: int = 0,
) -> Iterator[PromptStore]:
    for folder in (disk, ram):
        if folder is not None:
            folder.mkdir(exist_ok=True)
    config = CacheConfig(
        model_digest="sha256:model",
        disk_folder=None if disk is None else str(disk),
        ram_folder=None if ram is None else str(ram),
        write=write,
        min_free_bytes=min_free_bytes,
    )
    store = PromptStore(config, identity, saves_whole=saves_whole)
    try:
        yield store
    finally:
        store.close(TIMEOUT)


def save(store: PromptStore, chain: Chain, states: dict[tuple[int, int], bytes]) -> None:
    """Save states, and wait until they are written."""
    for (start, end), state in states.items():
        store.save(chain, start, end, state, seconds=1.5)
    wait_until_written(store)


def wait_until_written(store: PromptStore) -> None:
    writer: Writer = store._writer
    with writer._changed:
        assert writer._changed.wait_for(lambda: not (writer._pending or writer._copying), TIMEOUT)


def take_all(store: PromptStore, chain: Chain, *, end: int | None = None) -> list[bytes]:
    """Find and fetch what is stored of a chain, from its beginning."""
    stored = store.find(chain, end=end)
    if stored is None:
        return []
    fetch = store.fetch(chain, stored, 0)
    states = []
    while not fetch.is_over:
        fetch.wait(TIMEOUT)
        if (state := fetch.take()) is not None:
            states.append(bytes(state.state))
    return states


def rejections(store: PromptStore) -> list[str]:
    events = store.take_events()
    return [event.reason for event in events if isinstance(event, CacheRejected)]


def entry_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*") if parse_entry_path(path))


def find_texts(folder: Path, canaries: Sequence[bytes]) -> list[bytes]:
    """Which of these bytes are in a file below a folder, or in its name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = [path.read_bytes() + str(path).encode() for path in files]
    return [canary for canary in canaries if any(canary in content for content in contents)]
