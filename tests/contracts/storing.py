"""Batchers with a store of computed prompts, and what tests need to know of it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.engine.core import CacheConfig, CacheKey, LoadConfig
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import open_batcher
from services.engine.runner.kvcache.store import PromptStore
from tests.contracts.batching import BatchRun

BLOCK = 256
BEFORE_END = 8  # of a prompt: where the state of a memory without blocks is kept
ALICE = (CacheKey(b"a" * 16, b"A" * 32),)
BOB = (CacheKey(b"b" * 16, b"B" * 32),)
_DEADLINE_SECONDS = 30.0


def build_cache(folder: Path, **changes: Any) -> CacheConfig:
    """A cache in two folders that are made here."""
    for tier in ("disk", "ram"):
        (folder / tier).mkdir(exist_ok=True)
    fields: dict[str, Any] = {
        "model_digest": "sha256:" + "0" * 64,
        "disk_folder": str(folder / "disk"),
        "ram_folder": str(folder / "ram"),
    }
    return CacheConfig(**fields | changes)


@contextmanager
def opened(config: LoadConfig) -> Iterator[BatchRun]:
    """A batcher of its own, whose memory is empty, and its store."""
    batcher = open_batcher(config, lambda _: None)
    try:
        yield BatchRun(batcher)
    finally:
        get_store(batcher).close(_DEADLINE_SECONDS)
        batcher.close()


def get_store(batcher: Batcher) -> PromptStore:
    assert batcher.store is not None
    return batcher.store


def saves_whole(kind: str) -> bool:
    if "split" in kind and "mlx" not in kind:  # MLX's caches are those of one sequence anyway
        return True
    return any(word in kind for word in ("window", "recurrent", "hybrid"))


def count_stored(kind: str, length: int) -> int:
    """How much of a prompt of this length is found when the same prompt comes again."""
    return length - BEFORE_END if saves_whole(kind) else (length - 1) // BLOCK * BLOCK


def wait_until_stored(batcher: Batcher, tokens: Sequence[int], length: int) -> None:
    """Wait until so much of a prompt of Alice can be found."""
    store = get_store(batcher)
    chain = store.open_chain(ALICE, tokens)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (stored := store.find(chain, end=len(tokens) - 1)) is None or stored.length < length:
        assert time.monotonic() < deadline, f"{stored} of {length} tokens were stored"
        time.sleep(0.001)


def draw_prompt(draw: random.Random, length: int) -> list[int]:
    """Random letters, which are tokens of every model of the tests."""
    return [draw.randrange(97, 123) for _ in range(length)]
