"""Requests go on without the cache when its folders fail."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engine.core import CacheEvent, CacheNotWritten, CacheRejected, CacheStored
from services.engine.kv_entry import HEADER_BYTES, EntryHeader
from services.engine.runner.kvcache.folder_tier import FolderTier
from services.engine.runner.kvcache.store import PromptStore
from tests.engine.runner.kvcache.stores import (
    KEY,
    entry_files,
    make_state,
    make_tokens,
    open_store,
    rejections,
    save,
    take_all,
    wait_until_written,
)

TOKENS = make_tokens(512)
STATE = make_state(2 << 20)


def failures(store: PromptStore) -> list[CacheNotWritten]:
    events = store.take_events()
    return [event for event in events if isinstance(event, CacheNotWritten)]


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_size_limit")
def test_a_disk_that_fills_up_while_it_is_written_is_left_alone(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, 256): STATE})

        assert failures(store) == [CacheNotWritten("disk", "no space")]
        assert [path for path in (tmp_path / "disk").rglob("*") if path.is_file()] == []
        assert store.wants(chain, 512) == []
        assert store.find(chain) is None


def test_free_space_is_kept_and_ram_takes_the_entry(tmp_path: Path) -> None:
    disk, ram = tmp_path / "disk", tmp_path / "ram"
    with open_store(disk=disk, ram=ram, min_free_bytes=1 << 60) as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, 256): b"state"})

        assert failures(store) == [CacheNotWritten("disk", "no space")]
        assert (entry_files(disk), len(entry_files(ram))) == ([], 1)
        assert store.wants(chain, 512) == [(256, 512)]
        assert take_all(store, chain) == [b"state"]


def test_a_tier_is_tried_again_after_a_while(tmp_path: Path) -> None:
    events: deque[CacheEvent] = deque()
    times = iter([0.0, 0.0, 29.0, 31.0])
    tier = FolderTier("disk", str(tmp_path / "none"), events, clock=lambda: next(times))

    assert tier.is_writable
    assert not tier.write("ab" * 32, 3, [b"abc"])
    assert [tier.is_writable, tier.is_writable] == [False, True]
    assert list(events) == [CacheNotWritten("disk", "missing folder")]


def test_a_full_tier_is_not_written_until_it_was_swept(tmp_path: Path) -> None:
    """As when Redis does not answer, so that the front evicts nothing for a minute."""
    events: deque[CacheEvent] = deque()
    now = 0.0
    tier = FolderTier("ram", str(tmp_path), events, max_bytes=1000, clock=lambda: now)
    names = [f"{number:064x}" for number in range(12)]

    written = [tier.write(name, 100, [bytes(100)]) for name in names]
    assert written == [True] * 10 + [False] * 2
    assert set(events) == {CacheNotWritten("ram", "no space")}
    was_writable = tier.is_writable
    assert sum(path.stat().st_size for path in entry_files(tmp_path)) == 1000

    entry_files(tmp_path)[0].unlink()
    now = 1.0
    assert (was_writable, tier.is_writable) == (False, True)
    assert tier.write(names[10], 100, [bytes(100)])
    assert not tier.write(names[11], 100, [bytes(100)])


def test_several_runners_do_not_fill_a_tier_together(tmp_path: Path) -> None:
    tiers = [FolderTier("ram", str(tmp_path), deque(), max_bytes=10_000) for _ in range(4)]
    for number in range(200):
        tiers[number % 4].write(f"{number:064x}", 100, [bytes(100)])

    filled = sum(path.stat().st_size for path in entry_files(tmp_path))
    assert 9_000 <= filled <= 10_000


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder that the user of this process may read and not write, also where that is root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_folder_is_still_read(unprivileged_folder: Path) -> None:
    disk = unprivileged_folder / "disk"
    with open_store(disk=disk) as store:
        save(store, store.open_chain([KEY], TOKENS), {(0, 256): b"state"})
    for path in [disk, *disk.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with open_store(disk=disk) as store:
            chain = store.open_chain([KEY], TOKENS)
            assert take_all(store, chain) == [b"state"]
            save(store, chain, {(256, 512): b"more"})
            assert failures(store) == [CacheNotWritten("disk", "read-only")]
    finally:
        os.seteuid(user)
        disk.chmod(0o755)
        for path in disk.glob("??"):
            path.chmod(0o755)


def test_a_folder_that_vanishes_is_a_miss_and_is_not_made_again(tmp_path: Path) -> None:
    """It may be a volume that was unmounted: what lies below is another disk."""
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, 256): b"state"})
        stored = store.find(chain)
        assert stored is not None
        shutil.rmtree(tmp_path / "disk")
        store.take_events()

        fetch = store.fetch(chain, stored, 0)
        fetch.wait(30)
        assert (fetch.take(), fetch.is_failed) == (None, True)
        save(store, chain, {(256, 512): b"more"})
        name = stored.entries[0].name
        assert store.take_events() == [
            CacheRejected(name, "disk", "missing"),
            CacheNotWritten("disk", "missing folder"),
        ]
        assert not (tmp_path / "disk").exists()


def test_a_snapshot_that_is_replaced_after_it_was_found_is_a_miss_and_not_rejected(
    tmp_path: Path,
) -> None:
    """Rejecting would have the front delete the new one."""
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, length): b"%d" % length for length in (1, 2, 3, 4)})
        for seconds, path in enumerate(entry_files(tmp_path / "disk")):
            os.utime(path, (seconds, seconds))
        found = [store.find(chain, end=length) for length in (1, 2, 3, 4)]
        save(store, chain, {(0, length): b"%d" % length for length in (5, 6, 7, 8)})
        for stored in found:
            assert stored is not None
            fetch = store.fetch(chain, stored, 0)
            fetch.wait(30)
            assert (fetch.take(), fetch.is_failed) == (None, True)

        assert rejections(store) == []
        assert [take_all(store, chain, end=end) for end in (4, 5, 8)] == [[], [b"5"], [b"8"]]


def test_an_entry_that_is_evicted_before_it_is_copied_is_no_fault_of_the_ram(
    tmp_path: Path,
) -> None:
    with open_store(disk=tmp_path / "disk", ram=tmp_path / "ram") as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, 256): b"state"})
        with store._writer._changed:  # as if it were busy
            stored = store.find(chain)
            assert stored is not None
            opened = stored.entries[0].tier.read_chunks(stored.entries[0].name)
            header = EntryHeader.unpack(next(iter(opened))[:HEADER_BYTES])
            store._writer.copy_to_ram(stored.entries[0], header)
            for path in entry_files(tmp_path / "disk"):
                path.unlink()
        wait_until_written(store)

        assert failures(store) == []
        assert [path for path in (tmp_path / "ram").rglob("*") if path.is_file()] == []


def test_something_else_under_the_name_of_an_entry_is_a_miss(tmp_path: Path) -> None:
    with open_store(disk=tmp_path / "disk") as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, 256): b"state"})
        (path,) = entry_files(tmp_path / "disk")
        path.unlink()
        path.mkdir()
        store.take_events()

        assert take_all(store, chain) == []
        assert [getattr(event, "reason", None) for event in store.take_events()] == ["format"]
        save(store, chain, {(0, 256): b"state"})
        assert failures(store) == [CacheNotWritten("disk", "error")]


def test_a_pipe_under_the_name_of_an_entry_is_a_miss_at_once(tmp_path: Path) -> None:
    """Whoever opens it to read waits for a writer: the thread of the engine, or a reader."""
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, 300): b"state"})
        stored = store.find(chain)
        assert stored is not None
        (path,) = entry_files(tmp_path / "disk")
        path.unlink()
        os.mkfifo(path)
        store.take_events()

        fetch = store.fetch(chain, stored, 0)
        fetch.wait(30)
        assert (fetch.take(), fetch.is_failed) == (None, True)
        assert rejections(store) == ["format"]
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        assert store.find(store.open_chain([KEY], TOKENS)) is None
        assert rejections(store) == ["format"]


@pytest.mark.parametrize("jump", [-1e9, 1e9, -4e9], ids=["back", "ahead", "before 1970"])
def test_a_clock_that_jumps_costs_nothing(tmp_path: Path, jump: float) -> None:
    with open_store(disk=tmp_path / "disk", saves_whole=True) as store:
        chain = store.open_chain([KEY], TOKENS)
        save(store, chain, {(0, length): b"%d" % length for length in (1, 2, 3, 4)})
        now = store._writer._now
        store._writer._now = lambda: now() + jump
        save(store, chain, {(0, 5): b"5"})
        save(store, chain, {(0, 6): b"6"})

        assert take_all(store, chain) == [b"6"]
        assert len(entry_files(tmp_path / "disk")) == 4


def test_two_stores_that_write_the_same_blocks_agree(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    tokens = make_tokens(256 * 16)
    states = {(k * 256, k * 256 + 256): make_state(300_000, seed=k) for k in range(16)}
    with open_store(disk=disk) as one, open_store(disk=disk) as two:
        begin = threading.Barrier(2)

        def write(store: PromptStore) -> None:
            chain = store.open_chain([KEY], tokens)
            begin.wait()
            for (start, end), state in states.items():
                store.save(chain, start, end, state, seconds=1)
            wait_until_written(store)

        threads = [threading.Thread(target=write, args=[store]) for store in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        for store in (one, two):
            assert take_all(store, store.open_chain([KEY], tokens)) == list(states.values())
            assert all(
                isinstance(event, CacheStored) or event.tier for event in store.take_events()
            )
        assert len(entry_files(disk)) == 16
        assert [*disk.rglob("*.tmp")] == []
