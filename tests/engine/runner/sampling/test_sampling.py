"""The distribution of drawn tokens, compared with a slow reference over the whole vocabulary."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from tests.engine.runner.sampling.reference import (
    VOCAB,
    distance,
    make_logits,
    make_sampler,
    make_sampling,
    reference,
    sampled_distribution,
)

CASES = {
    "temperature alone": {"temperature": 0.7},
    "hot": {"temperature": 2.0},
    "top-k 1": {"top_k": 1},
    "top-k 40": {"top_k": 40},
    "top-k beyond the vocabulary": {"top_k": 10 * VOCAB},
    "top-p": {"top_p": 0.9},
    "top-p 0 keeps one": {"top_p": 0.0},
    "top-p almost 1": {"top_p": 0.9999},
    "min-p": {"min_p": 0.05},
    "min-p 1 keeps the best": {"min_p": 1.0},
    "typical": {"typical_p": 0.6},
    "typical of few": {"typical_p": 0.6, "top_k": 30},
    "llama-server's defaults": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "all at once": {
        "temperature": 0.6,
        "top_k": 300,
        "top_p": 0.97,
        "min_p": 0.001,
        "typical_p": 0.98,
    },
}


@pytest.mark.parametrize("spread", [3.0, 1.0, 0.05], ids=["peaked", "broad", "flat"])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_the_distribution_equals_the_reference(changes: dict[str, object], spread: float) -> None:
    params = make_sampling(**changes)
    for seed in range(3):
        logits = make_logits(seed, spread)

        assert distance(sampled_distribution(logits, params), reference(logits, params)) < 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"repeat_penalty": 1.3},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"frequency_penalty": -2.0, "top_k": 5},
        {"repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.2, "top_k": 40},
        {"repeat_penalty": 1.3, "repeat_last_n": 0},
        {"repeat_penalty": 1.3, "repeat_last_n": 3},
        {"logit_bias": {7: 30.0, 8: -math.inf, 9: -100.0}, "top_k": 4},
        {"logit_bias": {7: 12.0}, "repeat_penalty": 2.0, "top_p": 0.9},
    ],
    ids=str,
)
def test_penalties_and_bias_are_applied_before_the_filters(changes: dict[str, object]) -> None:
    params = make_sampling(**changes)
    logits = make_logits(4)
    favourites = np.argsort(-logits)[:6].tolist()
    prompt = [7, *favourites, favourites[0], 11, favourites[0]] * 4

    found = sampled_distribution(logits, params, prompt)

    assert distance(found, reference(logits, params, prompt)) < 1e-3


@pytest.mark.parametrize("changes", [{"top_k": 8}, {"temperature": 1.5}], ids=["few", "whole"])
def test_draws_follow_the_distribution(changes: dict[str, object]) -> None:
    """A chi-square over 20000 draws at fixed seeds; its 99.9 % point for 7 and 99 degrees."""
    params = make_sampling(**changes)
    logits = make_logits(3) if "top_k" in changes else make_logits(3, 0.5)
    expected = reference(logits, params)
    sampler = make_sampler(params, seed=11)
    draws = 20_000
    counts: Counter[int] = Counter()
    for _ in range(draws):
        counts[sampler.pick(logits)] += 1
        sampler.accept(0)

    # Rare tokens share bins, so that every bin expects enough draws for the test to be valid.
    bins = 8 if "top_k" in changes else 100
    order = {token: rank for rank, token in enumerate(expected)}
    seen, wanted = np.zeros(bins), np.zeros(bins)
    for token, probability in expected.items():
        seen[order[token] % bins] += counts[token]
        wanted[order[token] % bins] += draws * probability
    chi_square = float(((seen - wanted) ** 2 / wanted).sum())

    assert sum(counts.values()) == seen.sum()
    assert chi_square < (24.3 if bins == 8 else 148.2)


def test_xtc_removes_all_top_choices_but_the_least_likely() -> None:
    logits = np.full(VOCAB, -50.0, np.float32)
    logits[[10, 20, 30, 40]] = np.log([0.4, 0.3, 0.25, 0.05])
    params = make_sampling(xtc_probability=1.0, xtc_threshold=0.2)
    sampler = make_sampler(params)
    seen = set()
    for _ in range(200):
        seen.add(sampler.pick(logits))
        sampler.accept(0)

    assert seen == {30, 40}


def test_xtc_is_applied_with_the_requested_probability() -> None:
    logits = np.full(VOCAB, -50.0, np.float32)
    logits[[10, 20]] = np.log([0.7, 0.3])
    sampler = make_sampler(make_sampling(xtc_probability=0.25, xtc_threshold=0.2), seed=5)
    draws = 8000
    second = 0
    for _ in range(draws):
        second += sampler.pick(logits) == 20
        sampler.accept(0)

    # With XTC only token 20 is left; without, it is drawn 3 times in 10. Four standard deviations.
    expected = 0.25 + 0.75 * 0.3
    assert abs(second / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_one_clear_choice_survives_xtc() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[3] = 100.0

    assert make_sampler(make_sampling(xtc_probability=1.0)).pick(logits) == 3
