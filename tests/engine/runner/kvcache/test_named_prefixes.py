"""What a named prefix needs of a store: it is found, kept, and brought into RAM."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engine.runner.kvcache.store import PromptStore
from tests.engine.runner.kvcache.stores import (
    KEY,
    entry_files,
    make_blocks,
    make_tokens,
    open_store,
    save,
)
from tests.waiting import until


def test_a_snapshot_that_is_kept_is_not_replaced(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chains = [store.open_chain([KEY], [*make_tokens(256), n]) for n in range(6)]
        for chain in chains[:4]:
            save(store, chain, {(0, 257): b"state"})
        stored = store.find_prefix(chains[0])
        assert stored is not None
        store.keep(stored)
        for chain in chains[4:]:
            save(store, chain, {(0, 257): b"state"})

        found = [store.find(chain) is not None for chain in chains]

    assert found[0]
    assert sum(found) == 4


def test_the_place_of_a_kept_snapshot_that_was_evicted_is_free_again(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chains = [store.open_chain([KEY], [*make_tokens(256), n]) for n in range(6)]
        save(store, chains[0], {(0, 257): b"state"})
        stored = store.find_prefix(chains[0])
        assert stored is not None
        store.keep(stored)
        for path in entry_files(tmp_path / "disk"):
            path.unlink()
        for chain in chains[1:]:
            save(store, chain, {(0, 257): b"state"})

        assert store.find(chains[5]) is not None
        assert store.find(chains[1]) is None  # it took the place, and was the oldest


def test_only_so_many_snapshots_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that lives for long may be asked to keep ever more of them."""
    monkeypatch.setattr("services.engine.runner.kvcache.writer._MAX_KEPT", 3)
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chains = [store.open_chain([KEY], [*make_tokens(256), n]) for n in range(5)]
        for chain in chains[:4]:
            save(store, chain, {(0, 257): b"state"})
        for chain in (*chains[:4], chains[1]):
            stored = store.find_prefix(chain)
            assert stored is not None
            store.keep(stored)
        save(store, chains[4], {(0, 257): b"state"})

        assert [store.find(chain) is not None for chain in chains] == [False] + [True] * 4
        assert len(store._writer._kept) == 3


def test_a_prefix_of_snapshots_is_what_is_at_its_end_and_before_it(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], make_tokens(300))
        for length in (100, 292):
            save(store, chain, {(0, length): b"state"})
        before = store.find_prefix(chain)
        save(store, chain, {(0, 300): b"state"})
        both = store.find_prefix(chain)

    assert before is not None
    assert [entry.part.end for entry in before.entries] == [292]
    assert before.length >= store.count_storable(chain)
    assert both is not None
    assert [entry.part.end for entry in both.entries] == [300, 292]


def test_what_is_prefetched_is_copied_to_ram(tmp_path: Path) -> None:
    tokens = make_tokens(512)
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], tokens)
        save(store, chain, make_blocks(2))
        stored = store.find_prefix(chain)
        assert stored is not None
        store.prefetch(stored)  # without a RAM tier: into the page cache
    with open_store(disk=tmp_path / "disk", ram=tmp_path / "ram") as store:
        stored = store.find_prefix(store.open_chain([KEY], tokens))
        assert stored is not None
        store.prefetch(stored)
        until(lambda: _find_tier(store, tokens) == "ram")


def _find_tier(store: PromptStore, tokens: list[int]) -> str:
    stored = store.find(store.open_chain([KEY], tokens))
    assert stored is not None
    assert stored.length == 512
    return stored.tier
