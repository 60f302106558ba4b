"""Batcher, dispatcher, readers and writer at once, with threads that alternate all the time."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from services.engine.core import CacheNotWritten, CacheRejected
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore
from tests.engine.runner.kvcache.stores import (
    KEY,
    OTHER_KEY,
    TIMEOUT,
    entry_files,
    make_state,
    make_tokens,
    open_store,
)

ROUNDS = 40
KEYS = [KEY, OTHER_KEY]


class User:
    """Finds, fetches and saves as the requests of a batcher do, in random order."""

    def __init__(self, store: PromptStore, seed: int) -> None:
        self.fetched = 0
        self.wrong: list[object] = []
        self._store = store
        self._rng = random.Random(seed)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        for _ in range(ROUNDS):
            seed, tenant = self._rng.randrange(6), self._rng.randrange(2)
            chain = self._store.open_chain([KEYS[tenant]], make_tokens(1024, seed=seed))
            self._fetch(chain, seed, tenant)
            for start, end in self._store.wants(chain, 1024):
                if self._store.has_room():
                    self._store.save(chain, start, end, build(seed, tenant, start), seconds=1)

    def _fetch(self, chain: Chain, seed: int, tenant: int) -> None:
        stored = self._store.find(chain)
        if stored is None:
            return
        fetch = self._store.fetch(chain, stored, 0)
        while not fetch.is_over:
            fetch.wait(TIMEOUT)
            if (state := fetch.take()) is not None:
                self.fetched += 1
                if state.state != build(seed, tenant, state.start):
                    self.wrong.append((seed, tenant, state.start))
            if self._rng.random() < 0.1:
                fetch.close()


@pytest.mark.usefixtures("short_switch_interval")
def test_states_are_never_mixed_up(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", ram=tmp_path / "ram") as store:
        users = [User(store, seed) for seed in range(3)]
        for user in users:
            user.join()
        store.close(TIMEOUT)
        events = store.take_events()

    assert [user.wrong for user in users] == [[], [], []]
    assert min(user.fetched for user in users) > 0
    assert not [event for event in events if isinstance(event, CacheRejected | CacheNotWritten)]
    assert len(entry_files(tmp_path / "disk")) == 6 * 2 * 4
    assert store._writer._queued_bytes == 0


def build(seed: int, tenant: int, start: int) -> bytes:
    return b"%d %d %d " % (seed, tenant, start) + make_state(2000, seed=seed)
