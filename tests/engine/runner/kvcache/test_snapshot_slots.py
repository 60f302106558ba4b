"""Which snapshot of a node gives way to a fifth one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.engine.core import CacheStored
from services.engine.runner.kvcache.store import PromptStore
from tests.engine.runner.kvcache.stores import (
    KEY,
    entry_files,
    make_tokens,
    open_store,
    save,
    take_all,
    wait_until_written,
)


def set_last_uses(folder: Path, store: PromptStore, seconds: Sequence[float]) -> None:
    """Set the times of the entries that were written, in their order."""
    names = [event.name for event in store.take_events() if isinstance(event, CacheStored)]
    for name, second in zip(names, seconds, strict=True):
        os.utime(folder / name[:2] / name[2:], (second, second))


@pytest.mark.parametrize("use", ["find", "wants"])
def test_a_fifth_snapshot_of_a_node_replaces_the_one_not_used_for_longest(
    tmp_path: Path, use: str
) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], make_tokens(200))
        for length in (10, 20, 30, 40):
            save(store, chain, {(0, length): b"%d" % length})
        set_last_uses(tmp_path / "disk", store, (1000, 2000, 1500, 3000))
        if use == "find":
            assert take_all(store, chain, end=19) == [b"10"]
        else:
            assert store.wants(chain, 10) == []
        save(store, chain, {(0, 50): b"50"})

        assert len(entry_files(tmp_path / "disk")) == 4
        found = [take_all(store, chain, end=end) for end in (19, 29, 39, 49, 200)]
        assert found == [[b"10"], [b"20"], [b"20"], [b"40"], [b"50"]]


def test_a_snapshot_from_the_future_is_replaced_first(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], make_tokens(200))
        for length in (10, 20, 30, 40):
            save(store, chain, {(0, length): b"%d" % length})
        set_last_uses(tmp_path / "disk", store, (1000, 2000, 1 << 33, 3000))
        save(store, chain, {(0, 50): b"50"})

        assert take_all(store, chain, end=39) == [b"20"]


def test_what_is_used_in_ram_is_not_replaced_on_disk(tmp_path: Path) -> None:
    disk, ram = tmp_path / "disk", tmp_path / "ram"
    with open_store(disk=disk, ram=ram, saves_whole=True) as store:
        chain = store.open_chain([KEY], make_tokens(200))
        for length in (10, 20, 30, 40):
            save(store, chain, {(0, length): b"%d" % length})
        set_last_uses(disk, store, (1000, 2000, 1500, 3000))
        for _ in range(2):  # on disk, then in RAM
            assert take_all(store, chain, end=19) == [b"10"]
            wait_until_written(store)
            for path in entry_files(disk):
                if path.stat().st_mtime > 3000:
                    os.utime(path, (1000, 1000))
        save(store, chain, {(0, 50): b"50"})
        for path in entry_files(ram):
            path.unlink()

        assert [take_all(store, chain, end=end) for end in (19, 39)] == [[b"10"], [b"20"]]
