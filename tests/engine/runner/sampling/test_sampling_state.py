"""The sampler over the tokens of an answer: windows, seeds, bans, and invalid input."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.runner.sampling.sampler import Sampler
from services.shared.errors import InternalError, InvalidRequest
from tests.engine.runner.sampling.reference import (
    VOCAB,
    make_logits,
    make_sampler,
    make_sampling,
)


def test_a_bias_can_lift_any_token_into_the_top_k() -> None:
    logits = make_logits(1)
    last = int(logits.argmin())

    sampler = make_sampler(make_sampling(top_k=3, logit_bias={last: 1000.0}))

    assert sampler.pick(logits) == last


def test_penalties_apply_to_the_tokens_in_the_window_only() -> None:
    params = make_sampling(presence_penalty=1.0, frequency_penalty=0.5, repeat_last_n=4)
    logits = make_logits(2)
    sampler = make_sampler(params, prompt=[1, 2, 3])
    tokens_so_far = [1, 2, 3]
    for token in [5, 5, 5, 6, 7, 8, 5]:
        sampler.accept(token)
        tokens_so_far.append(token)

        scores = sampler.compute_scores(logits, ())

        expected = logits.astype(np.float64)
        for seen, count in Counter(tokens_so_far[-4:]).items():
            expected[seen] -= 0.5 * count + 1.0
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_negative_window_is_the_whole_context() -> None:
    sampler = make_sampler(make_sampling(presence_penalty=9.0, repeat_last_n=-1), prompt=range(200))
    for token in range(200, 400):
        sampler.accept(token)

    changed = np.flatnonzero(sampler.compute_scores(np.zeros(VOCAB, np.float32), ()))

    assert changed.tolist() == list(range(400))


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    rows = [make_logits(seed, 1.0) for seed in range(30)]

    def answer(seed: int) -> list[int]:
        sampler = make_sampler(make_sampling(), seed=seed)
        tokens = []
        for row in rows:
            tokens.append(sampler.pick(row))
            sampler.accept(tokens[-1])
        return tokens

    assert answer(-7) == answer(-7)
    assert len({tuple(answer(seed)) for seed in (-7, 0, 1, 2, 2**64 - 1, 2**70 + 3)}) == 6


def test_a_discarded_pick_changes_nothing() -> None:
    """A drafted position is discarded when an earlier one was rejected."""
    rows = [make_logits(seed, 1.0) for seed in range(10)]
    params = make_sampling(repeat_penalty=1.2, xtc_probability=0.5, dry_multiplier=0.5)
    plain, drafting = make_sampler(params, seed=3), make_sampler(params, seed=3)
    for row in rows:
        for other in rows:
            drafting.pick(other)

        token = plain.pick(row)

        assert drafting.pick(row) == token
        plain.accept(token)
        drafting.accept(token)


def test_greedy_chooses_the_best_token_that_is_not_banned() -> None:
    logits = make_logits(0)
    best, second, third = np.argsort(-logits)[:3].tolist()
    sampler = make_sampler(make_sampling(temperature=0.0))

    assert sampler.pick(logits) == best
    assert sampler.pick(logits, banned=(best, second)) == third


def test_a_banned_token_is_never_drawn() -> None:
    logits = np.full(VOCAB, -60.0, np.float32)
    logits[:4] = [9.0, 8.0, 8.0, 7.0]
    sampler = make_sampler(make_sampling())
    seen = set()
    for _ in range(100):
        seen.add(sampler.pick(logits, banned=[0, 2]))
        sampler.accept(0)

    assert seen == {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1.0, 1e9])
@pytest.mark.parametrize("top_k", [0, 40])
def test_the_logits_are_not_changed(temperature: float, top_k: int) -> None:
    logits = make_logits(0)
    logits.setflags(write=False)
    before = logits.copy()
    params = make_sampling(
        temperature=temperature, top_k=top_k, repeat_penalty=1.2, logit_bias={1: 5.0}
    )

    make_sampler(params, prompt=[1, 2, 3]).pick(logits, banned=[9])

    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 40])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_fail_the_request(
    value: float, top_k: int, temperature: float
) -> None:
    logits = make_logits(0)
    logits[-1] = value

    with pytest.raises(InternalError, match="no valid numbers"):
        make_sampler(make_sampling(temperature=temperature, top_k=top_k)).pick(logits)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_with_logits_of_minus_infinity_are_not_drawn(temperature: float) -> None:
    logits = np.full(VOCAB, -math.inf, np.float32)
    logits[[5, 4000]] = [1.0, 1.0]
    sampler = make_sampler(make_sampling(temperature=temperature, top_k=40, typical_p=0.9))

    seen = set()
    for _ in range(50):
        seen.add(sampler.pick(logits))
        sampler.accept(0)

    assert seen <= {5, 4000}


def test_a_bias_that_leaves_no_token_is_an_invalid_request() -> None:
    bias = dict.fromkeys(range(VOCAB), -math.inf)

    with pytest.raises(InvalidRequest, match="no token to choose"):
        make_sampler(make_sampling(logit_bias=bias)).pick(make_logits(0))


@pytest.mark.parametrize("token", [-1, VOCAB, 2**40])
def test_a_bias_for_a_token_that_does_not_exist_is_refused(token: int) -> None:
    with pytest.raises(InvalidRequest, match=f"names token {token}") as caught:
        make_sampler(make_sampling(logit_bias={token: 1.0}))

    assert caught.value.param == "logit_bias"


@pytest.mark.parametrize("amount", [math.nan, math.inf])
def test_a_bias_that_is_not_finite_is_refused(amount: float) -> None:
    with pytest.raises(InvalidRequest, match="not a finite number"):
        make_sampler(make_sampling(logit_bias={3: amount}))


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 50),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    typical_p=st.floats(0, 1),
    xtc=st.floats(0, 1),
    seed=st.integers(),
)
@settings(max_examples=300, deadline=None)
def test_any_parameters_give_a_token_with_a_finite_logit(
    logits: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
    xtc: float,
    seed: int,
) -> None:
    params = make_sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        xtc_probability=xtc,
        xtc_threshold=xtc / 2,
    )
    row = np.array([*logits, -math.inf], np.float32)
    sampler = Sampler(params, seed=seed, vocab_size=len(row), prompt=())

    assert 0 <= sampler.pick(row) < len(logits)
