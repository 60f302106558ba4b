"""The parts of the sampler: selection, DRY, random numbers, log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.core import Sampling, TokenLogprob
from services.engine.runner.sampling.draws import Draws, Purpose, draw_index
from services.engine.runner.sampling.dry import Dry, find_breaker_tokens
from services.engine.runner.sampling.logprobs import compute_logprob
from services.engine.runner.sampling.select import largest

# ---- select


@given(
    values=st.lists(
        st.sampled_from([-math.inf, *np.arange(-4, 4, 0.25).tolist()]), min_size=1, max_size=400
    ),
    k=st.integers(1, 500),
)
@settings(max_examples=300, deadline=None)
def test_the_largest_are_those_of_a_full_sort(values: list[float], k: int) -> None:
    array = np.array(values, np.float32)
    expected = sorted(
        (index for index, value in enumerate(values) if value > -math.inf),
        key=lambda index: (-values[index], index),
    )

    assert largest(array, k).tolist() == expected[:k]


@pytest.mark.parametrize("k", [1, 40, 1000, 40_000, 70_000, 152_000])
@pytest.mark.parametrize("shape", ["random", "rising", "clustered", "equal"])
def test_the_largest_of_a_whole_vocabulary(shape: str, k: int) -> None:
    size = 151_936
    values = {
        "random": np.random.default_rng(0).standard_normal(size),
        "rising": np.arange(size, dtype=np.float64),
        "clustered": np.where(np.arange(size) < 3000, np.arange(size), -1.0),
        "equal": np.zeros(size),
    }[shape].astype(np.float32)

    expected = np.argsort(-values, kind="stable")[:k]

    np.testing.assert_array_equal(largest(values, k), expected)


# ---- draws


def test_uniform_numbers_are_uniform_and_independent_of_their_neighbours() -> None:
    numbers = np.array(
        [
            Draws(seed).uniform(position, purpose)
            for seed in range(20)
            for position in range(500)
            for purpose in Purpose
        ]
    )

    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    expected = len(numbers) / 50

    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert ((counts - expected) ** 2 / expected).sum() < 85.4  # 99.9 % for 49 degrees
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def test_the_first_number_of_seed_0_is_not_0() -> None:
    assert Draws(0).uniform(0, Purpose.TOKEN) > 0.001


@pytest.mark.parametrize("size", [3, 2048, 2049, 20_000])
def test_a_draw_is_the_index_where_the_running_sum_passes_it(size: int) -> None:
    weights = np.random.default_rng(1).random(size).astype(np.float32)
    weights[::3] = 0
    reached = np.cumsum(weights, dtype=np.float64)
    for uniform in [0.0, 1e-9, 0.3, 0.5, 0.999, 1 - 2**-53]:
        found = draw_index(weights, uniform)

        assert weights[found] > 0
        before = reached[found] - weights[found]
        assert before - 1e-3 <= uniform * reached[-1] <= reached[found] + 1e-3


# ---- DRY


def reference_dry(
    tokens: Sequence[int], params: Sampling, breakers: set[int], vocab: int
) -> np.ndarray:
    """The penalty of each next token, by comparing ends position by position."""
    cost = np.zeros(vocab)
    since = next((n for n, token in enumerate(reversed(tokens)) if token in breakers), len(tokens))
    if len(tokens) <= params.dry_allowed_length or since < params.dry_allowed_length:
        return cost
    longest: dict[int, int] = {}
    for end in range(len(tokens) - 1):
        length = 0
        while length <= end and tokens[end - length] == tokens[-1 - length]:
            length += 1
        length = min(length, since)
        follower = tokens[end + 1]
        if length >= params.dry_allowed_length and follower not in breakers:
            longest[follower] = max(longest.get(follower, 0), length)
    for token, length in longest.items():
        cost[token] = params.dry_multiplier * params.dry_base ** (
            length - params.dry_allowed_length
        )
    return cost


@given(
    prompt=st.lists(st.integers(0, 3), max_size=30),
    answer=st.lists(st.integers(0, 3), max_size=30),
    allowed=st.integers(0, 3),
    breakers=st.sets(st.integers(0, 3), max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_dry_penalties_equal_the_reference(
    prompt: list[int], answer: list[int], allowed: int, breakers: set[int]
) -> None:
    params = Sampling(dry_multiplier=0.8, dry_base=1.3, dry_allowed_length=allowed)
    dry = Dry(params, prompt, breakers)
    for token in answer:
        dry.accept(token)
    logits = np.zeros(4, np.float32)

    dry.apply(logits)

    np.testing.assert_allclose(
        -logits, reference_dry([*prompt, *answer], params, breakers, 4), rtol=1e-5
    )


def test_dry_penalties_stay_finite_for_any_repetition() -> None:
    params = Sampling(dry_multiplier=5.0, dry_base=4.0)
    dry = Dry(params, [1] * 3000, ())
    for _ in range(3000):
        dry.accept(1)
    logits = np.zeros(4, np.float32)

    dry.apply(logits)

    assert logits[1] < -1e29
    assert np.isfinite(logits).all()


def test_breakers_are_the_tokens_with_a_breaker_in_their_text() -> None:
    pieces = [b"a", b"\n", b" b:", b'"', b"**", b"c"]

    assert find_breaker_tokens(len(pieces), pieces.__getitem__) == {1, 2, 3, 4}


# ---- log-probabilities


def test_log_probabilities_are_those_of_a_float64_softmax() -> None:
    logits = (np.random.default_rng(0).standard_normal(50_000) * 5 + 300).astype(np.float32)
    exact = logits.astype(np.float64)
    exact -= exact.max() + math.log(np.exp(exact - exact.max()).sum())
    order = np.argsort(-logits, kind="stable")[:5].tolist()

    found = compute_logprob(logits, 77, 5, lambda token: str(token).encode())

    assert found.token == 77
    assert found.text == b"77"
    assert found.logprob == pytest.approx(exact[77], abs=1e-5)
    assert [entry.token for entry in found.top] == order
    assert [entry.logprob for entry in found.top] == pytest.approx(exact[order].tolist(), abs=1e-5)


def test_without_top_there_is_only_the_token() -> None:
    logits = np.zeros(4, np.float32)

    found = compute_logprob(logits, 2, 0, lambda _: b"x")

    assert found == TokenLogprob(2, b"x", pytest.approx(-math.log(4)), ())  # type: ignore[arg-type]
