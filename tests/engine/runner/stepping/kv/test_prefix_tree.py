from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.engine.runner.stepping.kv.prefix_tree import BLOCK, PrefixTree

TEXT = st.lists(st.integers(0, 1), min_size=0, max_size=4).map(
    lambda blocks: [token for block in blocks for token in [block] * (BLOCK - 3)]
)


def build_tree(held: dict[int, list[int]]) -> PrefixTree:
    tree = PrefixTree(lambda holder, start, end: held[holder][start:end])
    for holder, tokens in held.items():
        tree.insert(holder, tokens, len(tokens))
    return tree


def count_common(one: list[int], other: list[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@given(st.dictionaries(st.integers(0, 9), TEXT), TEXT, st.sets(st.integers(0, 9)))
def test_it_finds_the_same_as_a_comparison_with_every_holder(
    held: dict[int, list[int]], wanted: list[int], gone: set[int]
) -> None:
    tree = build_tree(held)
    for holder in gone:
        tree.remove(holder)
        held.pop(holder, None)

    found = tree.find(wanted)

    longest = max((count_common(wanted, tokens) for tokens in held.values()), default=0)
    assert (found[1] if found else 0) == longest
    assert found is None or count_common(wanted, held[found[0]]) == longest


def test_a_match_may_end_inside_a_block() -> None:
    tree = build_tree({1: list(range(100))})

    assert tree.find([*range(70), 7, 7]) == (1, 70)


def test_a_holder_can_grow() -> None:
    held = {1: list(range(20))}
    tree = build_tree(held)
    held[1] += range(20, 90)
    tree.insert(1, held[1], 90)

    assert tree.find(list(range(200))) == (1, 90)


def test_holders_can_be_left_out() -> None:
    tree = build_tree({1: list(range(100)), 2: list(range(40))})

    assert tree.find(list(range(100)), lambda holder, _length: holder != 1) == (2, 40)


def test_an_empty_tree_finds_nothing() -> None:
    tree = build_tree({1: list(range(64))})
    tree.remove(1)

    assert tree.find(list(range(64))) is None
