"""Find the entries of a chain: by their names alone, without an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.engine.kv_entry import SLOTS
from services.engine.runner.kvcache.chain import BLOCK_TOKENS, Chain, Part
from services.engine.runner.kvcache.folder_tier import FolderTier
from services.engine.runner.kvcache.keys import DerivedKey


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An entry that was seen in a tier."""

    tier: FolderTier
    key: DerivedKey
    part: Part
    slot: int
    name: str


def find_blocks(tiers: Sequence[FolderTier], chain: Chain, start: int, end: int) -> list[Entry]:
    """The stored blocks from the one at `start` on, without a gap, that end at or before `end`."""
    entries: list[Entry] = []
    for index in range(start // BLOCK_TOKENS, end // BLOCK_TOKENS):
        entry = find_block(tiers, chain.keys, chain.get_block(index))
        if entry is None:
            break
        entries.append(entry)
    return entries


def find_block(tiers: Sequence[FolderTier], keys: Sequence[DerivedKey], part: Part) -> Entry | None:
    """One block, sealed with any of the keys, in the first tier that has it."""
    for key in keys:
        name = key.build_name("block", part.node, 0)
        for tier in tiers:
            if tier.has(name):
                return Entry(tier, key, part, 0, name)
    return None


def find_snapshot(
    tiers: Sequence[FolderTier], keys: Sequence[DerivedKey], chain: Chain, start: int, end: int
) -> Entry | None:
    """The longest snapshot of more than `start` and at most `end` tokens of the chain."""
    for index in range(end // BLOCK_TOKENS, start // BLOCK_TOKENS - 1, -1):
        entries = [
            entry
            for key in keys
            for slot in range(SLOTS)
            for tier in tiers
            if (entry := _match(tier, key, chain, index, slot)) and start < entry.part.end <= end
        ]
        if entries:  # of equal ones the first: newest key, first tier
            return max(entries, key=lambda entry: entry.part.end)
    return None


def _match(tier: FolderTier, key: DerivedKey, chain: Chain, index: int, slot: int) -> Entry | None:
    """The snapshot in one slot of a node, if it is of this chain's tokens."""
    name = key.build_name("snapshot", chain.get_node(index), slot)
    header = tier.peek(name)
    if header is None or header.tokens // BLOCK_TOKENS != index or header.tokens > chain.length:
        return None
    part = chain.get_snapshot(header.tokens)
    if header.tail_tag != key.build_tail_tag(part.content):
        return None
    return Entry(tier, key, part, slot, name)
