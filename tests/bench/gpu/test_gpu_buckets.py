"""The numbers of sequences that `buckets` runs with."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.gpu.items.buckets import pad, walk


@pytest.mark.parametrize("every", [1, 3, 5])
def test_a_walk_changes_by_one_and_only_every_few_steps(every: int) -> None:
    counts = walk(16, 200, every)

    changes = [number + 1 for number, (a, b) in enumerate(pairwise(counts)) if a != b]
    assert len(counts) == 200
    assert changes
    assert all(number % every == 0 for number in changes)
    assert all(abs(a - b) <= 1 for a, b in pairwise(counts))
    assert 1 <= min(counts) <= max(counts) <= 16


def test_padding_raises_to_the_next_bucket_within_the_most() -> None:
    assert pad([1, 3, 4, 5, 13, 20, 50, 63], 64) == [1, 4, 4, 8, 16, 24, 64, 64]
    assert pad([19, 20], 20) == [20, 20]
