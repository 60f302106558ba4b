"""What is pinned when prefixes are made and deleted at one time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from services.engine.front.cache_index.keyring import Keyring
from services.engine.front.cache_index.pinned_prefixes import MAX_PREFIXES, PinnedPrefixes
from services.engine.front.cache_index.prefix_files import NamedPrefix, PrefixFiles, PrefixPrompt
from services.shared.errors import CacheShareExceeded, Conflict
from tests.engine.front.cache_index.managed_tier import Tier

PROMPT = PrefixPrompt(None, (1, 2, 3))
RULES = NamedPrefix(
    name="rules", tenant="alice", principal="p", model="tiny", model_digest="sha256:1", created=0
)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture
def pinned(tmp_path: Path, keyring: Keyring, tier: Tier) -> PinnedPrefixes:
    """Each tenant may pin three of the ten entries."""
    files = PrefixFiles(tmp_path / "prefixes", keyring)
    return PinnedPrefixes(files, tier.manager, tenant_share=0.3)


async def test_prefixes_that_are_made_at_once_keep_to_the_share(
    pinned: PinnedPrefixes, tier: Tier
) -> None:
    prefixes = [
        msgspec.structs.replace(RULES, name=f"rules-{number}", entries=(await tier.store(),))
        for number in range(6)
    ]
    made = await asyncio.gather(
        *(pinned.pin(prefix, PROMPT) for prefix in prefixes), return_exceptions=True
    )

    assert len(pinned.files.list("alice")) == 3
    assert [type(each) for each in made if each is not None] == [CacheShareExceeded] * 3


async def test_prefixes_that_are_made_at_once_keep_to_their_number(pinned: PinnedPrefixes) -> None:
    made = await asyncio.gather(
        *(
            pinned.pin(msgspec.structs.replace(RULES, name=f"rules-{number}"), PROMPT)
            for number in range(MAX_PREFIXES + 2)
        ),
        return_exceptions=True,
    )

    assert len(pinned.files.list("alice")) == MAX_PREFIXES
    assert [type(each) for each in made if each is not None] == [Conflict] * 2


async def test_a_prefix_that_is_deleted_while_it_is_pinned_again_stays_deleted(
    pinned: PinnedPrefixes, tier: Tier
) -> None:
    await pinned.pin(RULES, PROMPT)
    warmed = msgspec.structs.replace(RULES, entries=(await tier.store(),))
    update = asyncio.create_task(pinned.update(RULES, warmed, PROMPT))
    await asyncio.sleep(0)  # it has begun
    await pinned.unpin(RULES)
    await update

    assert pinned.files.list() == []


async def test_a_prefix_whose_key_is_destroyed_while_it_is_pinned_again_is_gone(
    pinned: PinnedPrefixes, tier: Tier, keyring: Keyring
) -> None:
    await pinned.pin(RULES, PROMPT)
    warmed = msgspec.structs.replace(RULES, entries=(await tier.store(),))
    update = asyncio.create_task(pinned.update(RULES, warmed, PROMPT))
    await asyncio.sleep(0)  # it has begun
    keyring.forget(RULES.tenant)
    pinned.files.remove_unreadable()
    await update

    assert pinned.files.list() == []


async def test_only_what_was_not_replaced_is_pinned_again(
    pinned: PinnedPrefixes, tier: Tier
) -> None:
    warmed = msgspec.structs.replace(RULES, entries=(await tier.store(),))
    replaced = msgspec.structs.replace(RULES, created=1)
    await pinned.pin(replaced, PROMPT)
    await pinned.update(RULES, warmed, PROMPT)
    assert pinned.files.list() == [replaced]

    await pinned.update(replaced, warmed, PROMPT)
    assert pinned.files.list() == [warmed]
