"""The fast ways through a row give the tokens of the plain reference, for any row."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.runner.sampling.candidates import rank_candidates
from services.engine.runner.sampling.draws import Draws, Purpose
from services.engine.runner.sampling.filters import apply_filters, typical
from services.engine.runner.sampling.logprobs import compute_logprob
from services.engine.runner.sampling.row import Row
from services.engine.runner.sampling.sampler import Sampler
from services.engine.runner.sampling.select import largest
from services.engine.runner.sampling.sums import find_fraction
from services.shared.errors import InternalError
from tests.engine.runner.sampling.reference import (
    Logits,
    make_sampling,
    reference_tokens,
)

VOCABULARY = 151_936
WAYS = {
    "greedy": {"temperature": 0.0},
    "default": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "large top-k": {"top_k": 3000},
    "top-p": {"top_p": 0.95},
    "min-p": {"min_p": 0.05},
    "typical": {"typical_p": 0.9},
    "pure": {},
}


@st.composite
def rows(draw: st.DrawFn) -> Logits:
    """Rows of any shape: peaked or flat, with ties and -inf, on both sides of the size limits."""
    size = draw(st.sampled_from([1, 2, 40, 700, 2048, 2049, 3001]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    row = rng.standard_normal(size) * draw(st.sampled_from([0.0, 0.01, 0.5, 3.0, 20.0]))
    row[rng.integers(0, size, 3)] += draw(st.sampled_from([0.0, 15.0]))
    if draw(st.booleans()):
        row = np.round(row * 2) / 2
    row[rng.random(size) < draw(st.sampled_from([0.0, 0.3, 0.999]))] = -math.inf
    row[rng.integers(size)] = draw(st.sampled_from([0.0, 8.0]))
    return (row + draw(st.sampled_from([0.0, -300.0]))).astype(np.float32)


@given(
    row=rows(),
    temperature=st.sampled_from([0.2, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 40, 2500]),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 0.999, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=150, deadline=None)
def test_the_drawn_token_is_that_of_the_reference(
    row: Logits,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
) -> None:
    params = make_sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    uniform = Draws(seed).uniform(0, Purpose.TOKEN)
    sampler = Sampler(params, seed=seed, vocab_size=len(row), prompt=())

    assert sampler.pick(row) in reference_tokens(row, params, uniform)


@given(row=rows(), p=st.floats(0, 1, exclude_max=True))
@settings(max_examples=100, deadline=None)
def test_typical_keeps_the_fewest_tokens_of_typical_surprise_that_exceed_p(
    row: Logits, p: float
) -> None:
    gaps = rank_candidates(Row(row), make_sampling(typical_p=p)).gaps.astype(np.float64)
    probability = np.exp(-gaps) / np.exp(-gaps).sum()
    distance = np.abs(gaps - (probability * gaps).sum())

    found = typical(gaps, p)
    kept = np.zeros(len(gaps), np.bool_)
    kept[found.start : found.stop] = True

    assert distance[kept].max() <= distance[~kept].min(initial=np.inf) + 1e-6
    farthest = probability[kept][distance[kept].argmax()]
    assert probability[kept].sum() - farthest <= p + 1e-6
    assert kept.all() or probability[kept].sum() >= p - 1e-6


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_nan_anywhere_in_a_large_row_fails_the_request(way: dict[str, object]) -> None:
    row = np.random.default_rng(0).standard_normal(VOCABULARY).astype(np.float32)
    sampler = Sampler(make_sampling(**way), seed=0, vocab_size=VOCABULARY, prompt=())
    for place in (0, 1, 2373, 2374, 70_000, VOCABULARY // 64 * 64 - 1, VOCABULARY - 1):
        damaged = row.copy()
        damaged[place] = math.nan

        with pytest.raises(InternalError, match="no valid numbers"):
            sampler.pick(damaged)


@given(
    values=st.lists(st.sampled_from([math.nan, -math.inf, 0.0, 1.0]), min_size=1, max_size=300),
    k=st.integers(1, 400),
)
@settings(max_examples=100, deadline=None)
def test_the_first_of_the_largest_is_a_nan_if_there_is_one(values: list[float], k: int) -> None:
    array = np.array(values, np.float32)

    found = largest(array, k)

    if np.isnan(array).any():
        assert found.tolist() == [int(array.argmax())]


@given(
    size=st.sampled_from([1, 3, 2048, 2049, 5000]),
    seed=st.integers(0, 100),
    fraction=st.floats(-0.1, 1.1),
    zeros=st.sampled_from([0.0, 0.5, 0.99]),
    total=st.sampled_from([None, 0.3, 3.0]),
)
@settings(max_examples=150, deadline=None)
def test_a_fraction_is_found_where_the_running_sum_passes_it(
    size: int, seed: int, fraction: float, zeros: float, total: float | None
) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.random(size) * (rng.random(size) >= zeros)).astype(np.float32)
    reached = np.cumsum(weights, dtype=np.float64)
    amount = max(fraction, 0.0) * (reached[-1] if total is None else total)

    left = find_fraction(weights, fraction, "left", total=total)
    right = find_fraction(weights, fraction, "right", total=total)

    rounding = 1e-6 * max(amount, 1.0)
    for found in (left, right):
        assert found == size or reached[found] >= amount - rounding
        assert found == 0 or reached[found - 1] <= amount + rounding


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("top", [0, 5, 50])
def test_log_probabilities_are_the_same_after_a_pick_from_the_same_row(
    way: dict[str, object], top: int
) -> None:
    logits = np.random.default_rng(1).standard_normal(VOCABULARY).astype(np.float32) * 3
    row = Row(logits)
    token = Sampler(make_sampling(**way), seed=3, vocab_size=VOCABULARY, prompt=()).pick(row)

    assert compute_logprob(row, token, top, _name) == compute_logprob(logits, token, top, _name)


def test_the_nucleus_of_a_flat_vocabulary_has_the_right_size() -> None:
    row = Row(np.zeros(VOCABULARY, np.float32))
    params = make_sampling(top_p=0.95)

    kept = apply_filters(rank_candidates(row, params), params, exclude_top=False)

    assert kept == range(math.ceil(0.95 * VOCABULARY))


def _name(token: int) -> bytes:
    return b"%d" % token
