"""What `find` returns, beside a plain model of what was saved."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.runner.kvcache.stores import KEY, OTHER_KEY, make_tokens, open_store, save

LENGTH = 256 * 6 + 100
PROMPTS = [
    # They begin alike: with 0, 2 blocks, and in the middle of a block.
    make_tokens(LENGTH),
    make_tokens(512) + make_tokens(LENGTH - 512, seed=1),
    make_tokens(700) + make_tokens(LENGTH - 700, seed=2),
    make_tokens(LENGTH, seed=3),
]
KEYS = [[KEY], [OTHER_KEY], [OTHER_KEY, KEY]]
prompts = st.sampled_from(range(len(PROMPTS)))
tenants = st.sampled_from(range(2))
lengths = st.integers(0, LENGTH)
queries = st.lists(st.tuples(prompts, st.sampled_from(range(3)), lengths, lengths), max_size=10)


@settings(max_examples=60, deadline=None)
@given(saved=st.sets(st.tuples(prompts, tenants, st.integers(0, 5))), queries=queries)
def test_blocks_are_found_up_to_the_first_gap(
    saved: set[tuple[int, int, int]], queries: list[tuple[int, int, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, open_store(disk=Path(folder)) as store:
        known = set()
        for prompt, tenant, block in saved:
            chain = store.open_chain(KEYS[tenant], PROMPTS[prompt])
            save(store, chain, {(block * 256, block * 256 + 256): b"x"})
            known.add((tenant, tuple(PROMPTS[prompt][: block * 256 + 256])))

        for prompt, keys, start, end in queries:
            tenants = [[0], [1], [1, 0]][keys]
            found = None
            for block in range(start // 256, end // 256):
                prefix = tuple(PROMPTS[prompt][: block * 256 + 256])
                if not any((tenant, prefix) in known for tenant in tenants):
                    break
                found = len(prefix)
            stored = store.find(store.open_chain(KEYS[keys], PROMPTS[prompt]), start=start, end=end)
            assert (None if stored is None else stored.length) == found


@settings(max_examples=60, deadline=None)
@given(
    saved=st.lists(st.tuples(prompts, tenants, lengths), max_size=6, unique=True), queries=queries
)
def test_the_longest_snapshot_is_found(
    saved: list[tuple[int, int, int]], queries: list[tuple[int, int, int, int]]
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(disk=Path(folder), saves_whole=True) as store,
    ):
        known = set()
        nodes: dict[object, int] = {}
        for prompt, tenant, length in saved:
            prefix = tuple(PROMPTS[prompt][:length])
            node = (tenant, prefix[: length // 256 * 256])
            if nodes.get(node, 0) == 4 or (tenant, prefix) in known:
                continue  # a fifth one would replace another
            nodes[node] = nodes.get(node, 0) + 1
            known.add((tenant, prefix))
            save(store, store.open_chain(KEYS[tenant], PROMPTS[prompt]), {(0, length): b"x"})

        for prompt, keys, start, end in queries:
            tenants = [[0], [1], [1, 0]][keys]
            found = [
                len(prefix)
                for tenant, prefix in known
                if tenant in tenants
                and start < len(prefix) <= end
                and tuple(PROMPTS[prompt][: len(prefix)]) == prefix
            ]
            stored = store.find(store.open_chain(KEYS[keys], PROMPTS[prompt]), start=start, end=end)
            assert (0 if stored is None else stored.length) == max(found, default=0)
