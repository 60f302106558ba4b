from __future__ import annotations

import hashlib
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.core import CacheKey
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.keys import DerivedKey
from tests.engine.runner.kvcache.stores import IDENTITY, KEY, make_tokens


def make_chain(tokens: list[int]) -> Chain:
    return Chain(IDENTITY, (), tokens)


def test_a_block_is_named_by_all_that_is_before_it() -> None:
    tokens = make_tokens(600)
    one = hashlib.sha256(IDENTITY + struct.pack("<256i", *tokens[:256])).digest()
    two = hashlib.sha256(one + struct.pack("<256i", *tokens[256:512])).digest()
    chain = make_chain(tokens)

    assert [chain.get_node(index) for index in range(3)] == [IDENTITY, one, two]
    block = chain.get_block(1)
    assert (block.start, block.end, block.node, block.content) == (256, 512, two, two)
    assert block.binding == IDENTITY + one + two + struct.pack("<I", 1)


@given(cuts=st.lists(st.integers(0, 700), max_size=20))
def test_a_chain_does_not_tell_how_its_tokens_came(cuts: list[int]) -> None:
    tokens = make_tokens(700)
    whole, grown = make_chain(tokens), make_chain([])
    ends = [0, *sorted(cuts), 700]
    for start, end in itertools.pairwise(ends):
        grown = grown.copy()
        grown.extend(tokens[start:end])

    assert grown.length == 700
    assert [grown.get_node(k) for k in range(3)] == [whole.get_node(k) for k in range(3)]
    assert grown.get_snapshot(699).binding == whole.get_snapshot(699).binding


def test_a_copy_grows_by_itself() -> None:
    chain = make_chain(make_tokens(300))
    copy = chain.copy()
    copy.extend([1] * 300)

    assert (chain.length, copy.length) == (300, 600)
    assert chain.get_node(1) == copy.get_node(1)


def test_snapshots_of_all_lengths_have_other_contents() -> None:
    chain = make_chain(make_tokens(600))

    assert len({chain.get_snapshot(length).content for length in range(601)}) == 601
    with pytest.raises(ValueError, match="601 tokens"):
        chain.get_snapshot(601)


def test_names_and_tags_differ_with_each_key_kind_and_slot() -> None:
    keys = [DerivedKey.derive(CacheKey(KEY.id, bytes([number]) * 32)) for number in range(2)]
    names = {
        key.build_name(kind, b"n" * 32, slot)
        for key in keys
        for kind in ("block", "snapshot")
        for slot in range(4)
    }

    assert len(names) == 16
    assert all(len(name) == 64 for name in names)
    assert len({key.build_tail_tag(b"c" * 32) for key in keys}) == 2


@pytest.mark.parametrize("key", [CacheKey(b"short", bytes(32)), CacheKey(bytes(16), bytes(31))])
def test_a_key_of_another_length_is_refused_and_its_secret_not_shown(key: CacheKey) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        DerivedKey.derive(key)
    assert repr(key) == f"CacheKey({key.id.hex()})"
    assert "name_key" not in repr(DerivedKey.derive(KEY))
