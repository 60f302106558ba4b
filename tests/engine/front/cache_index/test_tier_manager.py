"""The manager of a tier against real files and a real Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import redis
import redis.asyncio

from services.engine.core import CacheRejected, CacheStored
from services.engine.front.cache_index.index import IndexedEntry
from services.engine.kv_entry import read_header
from tests.engine.front.cache_index.managed_tier import ALICE, BOB, ENTRY_BYTES, Tier
from tests.engine.front.cache_index.stored_files import store_entry


async def test_entries_are_counted_for_their_tenants(tier: Tier) -> None:
    for key in (ALICE, ALICE, BOB):
        await tier.store(key)

    status = await tier.manager.read_status()
    assert (status.entries, status.counts.stored) == (3, 3)
    assert status.counts.stored_bytes == 3 * ENTRY_BYTES
    assert status.tenants == {"alice": 2 * ENTRY_BYTES, "bob": ENTRY_BYTES}
    assert status.bytes == 3 * ENTRY_BYTES


async def test_an_entry_that_is_written_again_counts_once(tier: Tier) -> None:
    name = await tier.store()
    tier.manager.note(CacheStored(name, ALICE, "disk", "block", ENTRY_BYTES, 256, 1.0))
    await tier.manager.update()

    assert (await tier.manager.read_status()).bytes == ENTRY_BYTES


async def test_an_entry_that_is_reported_twice_at_once_counts_once(tier: Tier) -> None:
    """As a snapshot that replaces another one within a second."""
    await tier.manager.update()
    name = store_entry(tier.path, ALICE)
    for _ in range(2):
        tier.manager.note(CacheStored(name, ALICE, "disk", "snapshot", ENTRY_BYTES, 256, 1.0))
    await tier.manager.update()

    assert (await tier.manager.read_status()).bytes == ENTRY_BYTES


async def test_two_fronts_that_add_or_remove_the_same_entry_count_it_once(tier: Tier) -> None:
    index = tier.manager._index
    kept, gone = (
        IndexedEntry(name * 64, "alice", "block", ENTRY_BYTES, 256, 1.0, 0) for name in "ab"
    )
    await asyncio.gather(*(index.add([kept, gone]) for _ in range(4)))
    assert await index.read_bytes() == {"alice": 2 * ENTRY_BYTES}
    await asyncio.gather(*(index.remove([gone.name]) for _ in range(4)))

    assert await index.read_bytes() == {"alice": ENTRY_BYTES}


async def test_an_entry_that_is_stored_again_after_it_was_missed_stays(tier: Tier) -> None:
    name = store_entry(tier.path, ALICE)
    tier.manager.note(CacheRejected(name, "disk", "missing"))
    tier.manager.note(CacheStored(name, ALICE, "disk", "block", ENTRY_BYTES, 256, 1.0))
    await tier.manager.update()

    assert tier.names == {name}
    assert (await tier.manager.read_status()).entries == 1


async def test_a_smaller_budget_holds_from_the_start(tmp_path: Path, redis_url: str) -> None:
    tier = Tier(tmp_path / "kv", redis_url, entries=10, per_tenant=10)
    for _ in range(8):
        await tier.store()
    smaller = Tier(tmp_path / "kv", redis_url, entries=4, per_tenant=4)
    await smaller.manager.update()

    assert len(smaller.names) <= 4
    await tier.close()
    await smaller.close()


async def test_a_tenant_that_stores_nothing_stays_evictable(tier: Tier, redis_url: str) -> None:
    """The index of a folder that is gone expires; that of one in use does not, in part."""
    await tier.store(ALICE)
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    for key in client.keys(f"*{tier.manager.folder.id}*"):
        client.expire(key, 1000)
    await tier.store(BOB)

    keys = client.keys(f"*{tier.manager.folder.id}:rank:*")
    assert len(keys) == 2
    assert all(client.ttl(key) > 1000 for key in keys)


async def test_a_sweep_counts_what_a_killed_runner_did_not_report(tier: Tier) -> None:
    kept = await tier.store(ALICE)
    gone = await tier.store(ALICE)
    unreported = store_entry(tier.path, BOB)
    orphan = store_entry(tier.path, b"x" * 16)
    (tier.path / gone[:2] / gone[2:]).unlink()
    tier.restart()
    await tier.manager.update()
    await tier.manager.sweep()

    status = await tier.manager.read_status()
    assert tier.names == {kept, unreported}
    assert orphan not in tier.names
    assert (status.entries, status.tenants) == (2, {"alice": ENTRY_BYTES, "bob": ENTRY_BYTES})


async def test_a_sweep_without_redis_removes_partial_files(tier: Tier) -> None:
    partial = tier.path / "ab" / f"{'0' * 62}.{'0' * 16}.tmp"
    partial.parent.mkdir(exist_ok=True)
    partial.touch()
    tier.restart("redis://127.0.0.1:1/0")
    await tier.manager.sweep()

    assert not partial.exists()


async def test_over_the_budget_the_entry_goes_that_saves_least_per_byte(tier: Tier) -> None:
    cheap = await tier.store(seconds=0.1)
    names = [await tier.store(seconds=5.0) for _ in range(10)]

    assert cheap not in tier.names
    assert len(tier.names & set(names)) == 9  # one more goes than must


async def test_what_is_used_outlives_what_is_not(tier: Tier) -> None:
    kept = await tier.store()
    for _ in range(40):
        await tier.store()
        await tier.use(kept)

    assert kept in tier.names
    assert len(tier.names) <= 10


async def test_what_was_valuable_once_goes_when_it_is_not_used(tier: Tier) -> None:
    once = await tier.store(seconds=3.0)
    for _ in range(60):
        await tier.store(seconds=1.0)

    assert once not in tier.names


async def test_a_tenant_above_its_share_evicts_its_own(tmp_path: Path, redis_url: str) -> None:
    tier = Tier(tmp_path / "kv", redis_url, entries=20, per_tenant=3)
    theirs = await tier.store(BOB)
    for _ in range(8):
        await tier.store(ALICE)

    sizes = (await tier.manager.read_status()).tenants
    await tier.close()
    assert theirs in tier.names
    assert sizes["alice"] <= 3 * ENTRY_BYTES


async def test_a_rejected_entry_is_deleted_and_counted_by_reason(tier: Tier) -> None:
    name = await tier.store()
    tier.manager.note(CacheRejected(name, "disk", "authentication"))
    await tier.manager.update()

    status = await tier.manager.read_status()
    assert tier.names == set()
    assert (status.entries, status.bytes, status.counts.rejected) == (0, 0, {"authentication": 1})


async def test_an_entry_that_could_not_be_read_is_kept(tier: Tier) -> None:
    name = await tier.store()
    tier.manager.note(CacheRejected(name, "disk", "unreadable"))
    await tier.manager.update()

    status = await tier.manager.read_status()
    assert tier.names == {name}
    assert (status.entries, status.counts.rejected) == (1, {"unreadable": 1})


async def test_an_entry_of_a_tenant_that_was_deleted_meanwhile_is_deleted(tier: Tier) -> None:
    del tier.tags[ALICE]
    await tier.store(ALICE)

    assert tier.names == set()


async def test_a_new_front_takes_a_complete_index_as_it_is(tier: Tier) -> None:
    name = await tier.store()
    (tier.path / name[:2] / name[2:]).unlink()  # a rebuild would notice
    tier.restart()
    await tier.store()

    assert (await tier.manager.read_status()).entries == 2


async def test_a_lost_index_is_rebuilt_from_the_files(tier: Tier, redis_url: str) -> None:
    names = {await tier.store(BOB) for _ in range(3)}
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    await tier.store(ALICE)

    status = await tier.manager.read_status()
    assert names < tier.names
    assert status.tenants == {"alice": ENTRY_BYTES, "bob": 3 * ENTRY_BYTES}


async def test_a_rebuild_deletes_entries_of_no_tenant_and_other_files(tier: Tier) -> None:
    orphan = store_entry(tier.path, b"x" * 16)
    torn = store_entry(tier.path, ALICE)
    (tier.path / torn[:2] / torn[2:]).write_bytes(b"spindlkv")
    mine = await tier.store()

    assert tier.names == {mine}
    assert not {orphan, torn} & tier.names


async def test_without_redis_the_budget_is_kept_by_the_files(tier: Tier) -> None:
    old = [store_entry(tier.path, ALICE, unused_seconds=500 - n) for n in range(8)]
    new = [store_entry(tier.path, ALICE) for _ in range(8)]
    tier.restart("redis://127.0.0.1:1/0")
    await tier.manager.update()

    assert set(new) < tier.names
    assert len(tier.names) == 10
    assert old[0] not in tier.names


async def test_what_was_stored_while_redis_was_away_is_in_the_index_afterwards(tier: Tier) -> None:
    await tier.store()
    tier.restart("redis://127.0.0.1:1/0")
    broken = tier.manager._index
    tier.restart()
    await tier.manager.update()
    working, tier.manager._index = tier.manager._index, broken
    await tier.store()
    tier.manager._index = working
    await tier.store()

    assert (await tier.manager.read_status()).entries == 3


async def test_a_new_folder_has_an_index_of_its_own(tier: Tier, tmp_path: Path) -> None:
    await tier.store()
    assert (await tier.manager.read_status()).entries == 1
    tier.path = tmp_path / "other"
    tier.restart()
    await tier.manager.update()

    assert (await tier.manager.read_status()).entries == 0


async def test_deletion_by_header_leaves_the_index_right(tier: Tier) -> None:
    mine, theirs = await tier.store(ALICE), await tier.store(BOB)
    deleted = await tier.manager.delete(lambda entry: entry.header.key_id == ALICE)

    assert deleted == (1, ENTRY_BYTES)
    assert tier.names == {theirs}
    assert mine not in tier.names
    assert (await tier.manager.read_status()).tenants == {"bob": ENTRY_BYTES}


def test_the_header_that_tests_write_is_one(tmp_path: Path) -> None:
    name = store_entry(tmp_path, ALICE)

    assert read_header(tmp_path / name[:2] / name[2:]).file_bytes == ENTRY_BYTES
