from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from services.engine.core import CacheKey, CacheStored, CacheUsed
from services.engine.runner.kvcache import writer
from tests.engine.runner.kvcache.stores import (
    KEY,
    OTHER_KEY,
    entry_files,
    make_blocks,
    make_state,
    make_tokens,
    open_store,
    save,
    take_all,
    wait_until_written,
)
from tests.waiting import until

NEW_KEY = CacheKey(b"the next epoch..", bytes(range(7, 39)))


def test_a_growing_chat_writes_and_reads_only_its_blocks(tmp_path: Path) -> None:
    states = make_blocks(4)
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(700))
        assert store.find(chain) is None
        assert store.wants(chain, 700) == [(0, 256), (256, 512)]
        save(store, chain, {part: states[part] for part in store.wants(chain, 700)})
        assert store.wants(chain, 700) == []
        chain.extend(make_tokens(330, seed=1))
        assert store.wants(chain, chain.length, start=512) == [(512, 768), (768, 1024)]
        save(store, chain, {part: states[part] for part in store.wants(chain, chain.length)})

    with open_store(disk=tmp_path / "disk") as store:  # as after a restart
        chain = store.open_chain([KEY], make_tokens(700) + make_tokens(330, seed=1))
        stored = store.find(chain)
        assert stored is not None
        assert (stored.length, stored.tier) == (1024, "disk")
        assert take_all(store, chain) == list(states.values())
        assert take_all(store, chain, end=767) == list(states.values())[:2]


def test_a_snapshot_of_a_prompt_in_memory_is_reported_as_in_use(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], make_tokens(300))
        save(store, chain, {(0, 200): b"a", (0, 300): b"b"})
        names = [event.name for event in store.take_events() if isinstance(event, CacheStored)]
        assert store.wants(chain, 200) == []
        used = store.take_events()
        assert store.wants(chain, 200) == []

        assert used == [CacheUsed(names[0], "disk", is_read=False)]
        assert store.take_events() == []  # not for each request


def test_what_is_stored_of_a_prompt_in_memory_is_reported_as_in_use(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(768))
        save(store, chain, make_blocks(2))
        starts = [event.start for event in store.take_events() if isinstance(event, CacheStored)]
        assert store.wants(chain, 768) == [(512, 768)]
        used = store.take_events()
        assert store.wants(store.open_chain([KEY], make_tokens(768)), 768) == [(512, 768)]
        again = store.take_events()

    assert starts == [0, 256]
    names = [path.parent.name + path.name for path in entry_files(tmp_path / "disk")]
    assert sorted(event.name for event in used if isinstance(event, CacheUsed)) == names
    assert [event.is_read for event in used if isinstance(event, CacheUsed)] == [False, False]
    assert again == []  # within a minute


def test_blocks_that_the_caller_has_need_not_be_stored(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(1024))
        states = make_blocks(4)
        save(store, chain, {part: state for part, state in states.items() if part[0] >= 512})

        assert store.find(chain) is None
        stored = store.find(chain, start=512)
        assert stored is not None
        fetch = store.fetch(chain, stored, 768)
        fetch.wait(30)
        state = fetch.take()
        assert state is not None
        assert (state.start, state.end, state.state) == (768, 1024, states[768, 1024])
        assert (state.tier, state.seconds) == ("disk", 1.5)
        assert fetch.is_over
        assert not fetch.is_failed


def test_the_time_of_a_file_is_that_of_its_last_use(tmp_path: Path) -> None:
    """The front deletes by it what was unused for long."""
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(512))
        save(store, chain, make_blocks(2))
        for path in entry_files(tmp_path / "disk"):
            os.utime(path, (1e9, 1e9))
        assert take_all(store, chain, end=256) == [make_blocks(1)[0, 256]]

        times = sorted(path.stat().st_mtime for path in entry_files(tmp_path / "disk"))
        assert times[0] == 1e9 < times[1]


def test_private_keys_of_one_tenant_do_not_meet(tmp_path: Path) -> None:
    """They have one id, and so a prompt of one is no second use, nor a copy, for the other."""
    one, two = (CacheKey(KEY.id, bytes([n] * 32)) for n in (1, 2))
    with open_store(disk=tmp_path / "disk") as store:
        chains = [store.open_chain([key], make_tokens(256)) for key in (one, two)]
        with store._writer._changed:  # as if it were busy
            for chain in chains:
                assert store.wants(chain, 256) == [(0, 256)]
                store.save(chain, 0, 256, b"state", seconds=1)
        wait_until_written(store)
        assert [take_all(store, chain) for chain in chains] == [[b"state"]] * 2
    with open_store(disk=tmp_path / "other", write="second_use") as store:
        assert store.wants(store.open_chain([one], make_tokens(256)), 256) == []
        assert store.wants(store.open_chain([two], make_tokens(256)), 256) == []


def test_snapshots_are_found_at_any_length(tmp_path: Path) -> None:
    lengths = [5, 300, 301, 511, 512, 900]
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], make_tokens(1000))
        for length in lengths:
            assert store.wants(chain, length) == [(0, length)]
            save(store, chain, {(0, length): b"%d" % length})
            assert store.wants(chain, length) == []
        found = {end: take_all(store, chain, end=end) for end in (4, 5, 299, 302, 512, 899, 1000)}
        other = store.open_chain([KEY], make_tokens(300) + make_tokens(400, seed=2))

        assert found == {
            4: [],
            5: [b"5"],
            299: [b"5"],
            302: [b"301"],
            512: [b"512"],
            899: [b"512"],
            1000: [b"900"],
        }
        assert store.find(chain, start=900) is None
        assert take_all(store, other) == [b"300"]


def test_what_is_read_on_disk_is_copied_to_ram(tmp_path: Path) -> None:
    disk, ram = tmp_path / "disk", tmp_path / "ram"
    with open_store(disk=disk, ram=ram) as store:
        chain = store.open_chain([KEY], make_tokens(512))
        states = make_blocks(2)
        save(store, chain, states)
        (name, other) = [event.name for event in store.take_events()]  # type: ignore[union-attr]
        assert entry_files(ram) == []
        assert take_all(store, chain) == list(states.values())
        wait_until_written(store)

        copied = [event for event in store.take_events() if isinstance(event, CacheStored)]
        assert {(event.name, event.tier) for event in copied} == {(name, "ram"), (other, "ram")}
        for path in entry_files(ram):
            assert path.read_bytes() == (disk / path.relative_to(ram)).read_bytes()
        for path in entry_files(disk):
            path.unlink()
        assert take_all(store, chain) == list(states.values())
        used = [event for event in store.take_events() if isinstance(event, CacheUsed)]
        sizes = {path.stat().st_size for path in entry_files(ram)}
        assert {(event.name, event.tier) for event in used} == {(name, "ram"), (other, "ram")}
        assert {event.size_bytes for event in used} == sizes
        assert all(event.seconds > 0 for event in used)


def test_without_a_disk_entries_are_written_to_ram(tmp_path: Path) -> None:
    with open_store(ram=tmp_path / "ram") as store:
        chain = store.open_chain([KEY], make_tokens(256))
        save(store, chain, make_blocks(1))

        stored = store.find(chain)
        assert stored is not None
        assert stored.tier == "ram"
        (path,) = entry_files(tmp_path / "ram")
        name = path.parent.name + path.name
        event = CacheStored(name, KEY.id, "ram", "block", path.stat().st_size, 256, 1.5)
        assert store.take_events() == [event]
        assert store.take_events() == []


def test_without_tiers_nothing_is_found_or_wanted() -> None:
    with open_store() as store:
        chain = store.open_chain([KEY], make_tokens(256))

        assert (store.find(chain), store.wants(chain, 256)) == (None, [])


def test_an_older_epoch_is_read_and_written_again_under_the_newest_key(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        tokens = make_tokens(256)
        save(store, store.open_chain([KEY], tokens), make_blocks(1))
        rotated = store.open_chain([NEW_KEY, KEY], tokens)
        assert take_all(store, rotated) == list(make_blocks(1).values())
        assert store.wants(rotated, 256) == [(0, 256)]
        save(store, rotated, make_blocks(1))

        assert take_all(store, store.open_chain([NEW_KEY], tokens)) == [*make_blocks(1).values()]


def test_second_use_stores_what_another_request_of_the_tenant_asked_for(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk", write="second_use") as store:
        tokens = make_tokens(512)
        chain = store.open_chain([KEY], tokens)
        assert [store.wants(chain, 512), store.wants(chain.copy(), 512)] == [[], []]
        assert store.wants(store.open_chain([OTHER_KEY], tokens), 512) == []
        longer = store.open_chain([KEY], tokens + make_tokens(256, seed=1))

        assert store.wants(longer, 768) == [(0, 256), (256, 512)]


def test_never_reads_only(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        save(store, store.open_chain([KEY], make_tokens(256)), make_blocks(1))
    with open_store(disk=tmp_path / "disk", write="never") as store:
        chain = store.open_chain([KEY], make_tokens(512))

        assert store.wants(chain, 512) == []
        assert take_all(store, chain) == list(make_blocks(1).values())


def test_a_state_is_released_when_it_is_written_and_when_it_is_taken(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        state = make_state(1000)
        references = sys.getrefcount(state)
        chain = store.open_chain([KEY], make_tokens(256))
        store.save(chain, 0, 256, state, seconds=1)
        wait_until_written(store)

        assert until(lambda: sys.getrefcount(state) == references)
        assert len(entry_files(tmp_path / "disk")) == 1

        stored = store.find(chain)
        assert stored is not None
        fetch = store.fetch(chain, stored, 0)
        fetch.wait(30)
        taken = fetch.take()
        assert until(lambda: sys.getrefcount(taken) == 2)  # of this test alone


def test_the_queue_of_the_writer_is_bounded_and_what_waits_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUED_BYTES", 1000)
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(512))
        with store._writer._changed:  # as if it were busy
            store.save(chain, 0, 256, make_state(999), seconds=1)
            assert store.has_room()
            assert store.wants(chain, 512) == [(256, 512)]
            store.save(chain, 256, 512, make_state(1), seconds=1)
            store.save(chain, 256, 512, make_state(1), seconds=1)
            assert not store.has_room()
        wait_until_written(store)
        assert store.has_room()


def test_a_store_writes_what_waits_when_it_is_closed(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(512))
        for (start, end), state in make_blocks(2).items():
            store.save(chain, start, end, state, seconds=1)
        store.close(30)
        store.close(30)

        assert len(entry_files(tmp_path / "disk")) == 2
        assert not [thread for thread in threading.enumerate() if "cache-" in thread.name]


def test_a_store_without_time_leaves_nothing_half_written(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], make_tokens(512))
        store.save(chain, 0, 256, make_state(8 << 20), seconds=1)
        store.close(0)

        assert [*(tmp_path / "disk").rglob("*.tmp")] == []
        store.save(chain, 256, 512, b"late", seconds=1)
        assert store.find(chain, start=256) is None
