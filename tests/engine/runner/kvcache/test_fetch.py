"""Fetching ahead of the batcher: bounded, in order, up to what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engine.runner.kvcache.fetch import Fetch
from tests.engine.runner.kvcache.stores import (
    KEY,
    make_blocks,
    make_state,
    make_tokens,
    open_store,
    save,
)


def test_states_ahead_of_the_batcher_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.engine.runner.kvcache.fetch._READ_AHEAD_BYTES", 150)
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(256 * 20))
        states = {(k * 256, k * 256 + 256): make_state(100, seed=k) for k in range(20)}
        save(store, chain, states)
        stored = store.find(chain)
        assert stored is not None
        fetch = store.fetch(chain, stored, 0)
        most, taken = 0, []
        while not fetch.is_over:
            fetch.wait(30)
            most = max(most, len(fetch._ready))
            if (state := fetch.take()) is not None:
                taken.append(state.state)

        assert taken == list(states.values())
        assert most <= 4  # two are ready, and each reader was reading one more


def test_a_fetch_that_fails_gives_what_is_before_the_failure(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(1024))
        states = list(make_blocks(4).values())
        save(store, chain, make_blocks(4))
        stored = store.find(chain)
        assert stored is not None
        Path(tmp_path / "disk", stored.entries[2].name[:2], stored.entries[2].name[2:]).unlink()
        fetch = store.fetch(chain, stored, 0)
        taken = []
        while not fetch.is_over:
            fetch.wait(30)
            if (state := fetch.take()) is not None:
                taken.append(state.state)

        assert taken == states[:2]
        assert fetch.is_failed


def test_what_is_ready_is_taken_until_so_many_bytes_or_a_close(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(1024))
        states = {(k * 256, k * 256 + 256): make_state(100, seed=k) for k in range(4)}
        save(store, chain, states)
        stored = store.find(chain)
        assert stored is not None
        fetch = store.fetch(chain, stored, 0)
        for place in range(4):  # all are read ahead
            with fetch._changed:
                assert fetch._changed.wait_for(lambda n=place: n in fetch._ready, 30)  # type: ignore[misc]

        taken = [state.state for state in fetch.take_ready(150)]
        assert (taken, fetch.is_over) == (list(states.values())[:2], False)
        for state in fetch.take_ready(1000):
            taken.append(state.state)
            fetch.close()

        assert (taken, fetch.is_over) == (list(states.values())[:3], True)


def test_a_closed_fetch_is_over_and_holds_nothing(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(512))
        save(store, chain, make_blocks(2))
        stored = store.find(chain)
        assert stored is not None
        fetch = store.fetch(chain, stored, 0)
        fetch.wait(30)
        fetch.close()
        fetch.close()

        assert (fetch.take(), fetch.is_over, fetch._ready, fetch._ready_bytes) == (
            None,
            True,
            {},
            0,
        )
        store.close(30)
        late: Fetch = store.fetch(chain, stored, 0)
        assert late.is_over
