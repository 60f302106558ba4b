"""What is evicted first: the ends of chains; and last: what is in use, and what is pinned."""

from __future__ import annotations

from services.engine.core import CacheUsed
from tests.engine.front.cache_index.managed_tier import ALICE, BOB, Tier
from tests.engine.front.cache_index.stored_files import store_entry


async def test_of_a_chain_the_end_is_evicted_before_the_beginning(tier: Tier) -> None:
    chain = [await tier.store(start=256 * number) for number in (4, 0, 3, 9, 1, 8, 2, 7, 5, 6)]
    by_start = dict(zip((4, 0, 3, 9, 1, 8, 2, 7, 5, 6), chain, strict=True))
    for name in chain:
        await tier.use(name)
    for _ in range(3):
        await tier.store(seconds=2.0)

    left = sorted(start for start, name in by_start.items() if name in tier.names)
    assert left == list(range(len(left)))
    assert 0 < len(left) <= 7


async def test_the_beginning_of_a_chat_in_memory_is_in_use_though_it_is_not_read(
    tier: Tier,
) -> None:
    first = await tier.store()
    for number in range(40):  # each evicts another one
        await tier.store()
        if number % 4 == 0:
            tier.manager.note(CacheUsed(first, "disk", is_read=False))
            await tier.manager.update()

    assert first in tier.names
    assert (await tier.manager.read_status()).counts.hits == 0


async def test_what_is_pinned_goes_last_and_what_is_unpinned_as_all_others(tier: Tier) -> None:
    names = [await tier.store(seconds=0.1) for _ in range(4)]
    tier.pinned |= set(names)
    await tier.manager.update_pins(names)
    for key in [ALICE, BOB] * 20:
        await tier.store(key)
    assert set(names) <= tier.names

    tier.pinned.clear()
    await tier.manager.update_pins(names)
    for _ in range(8):
        await tier.store()
    assert not set(names) & tier.names


async def test_without_redis_what_is_pinned_goes_last(tier: Tier) -> None:
    tier.restart("redis://127.0.0.1:1/0")
    tier.pinned = {
        store_entry(tier.path, ALICE, unused_seconds=1000.0 + number) for number in range(4)
    }
    for _ in range(8):
        store_entry(tier.path, BOB)
    await tier.manager.update()

    assert tier.pinned <= tier.names
    assert len(tier.names) == 10
