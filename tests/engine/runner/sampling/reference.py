"""A reference for the sampler in plain float64: dictionaries, sorted as a whole at every stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling
from services.engine.runner.sampling.candidates import rank_candidates
from services.engine.runner.sampling.filters import apply_filters, compute_weights
from services.engine.runner.sampling.row import Row
from services.engine.runner.sampling.sampler import Sampler

Logits = NDArray[np.float32]
VOCAB = 5000
_ROUNDING = 1e-6  # of float32 weights


def make_sampling(**changes: object) -> Sampling:
    """Build parameters with every stage off, and temperature 1."""
    off = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_last_n=64)
    fields = {name: getattr(off, name) for name in off.__struct_fields__}
    return Sampling(**{**fields, **changes})


def make_sampler(params: Sampling, *, seed: int = 0, prompt: Sequence[int] = ()) -> Sampler:
    return Sampler(params, seed=seed, vocab_size=VOCAB, prompt=prompt)


def make_logits(seed: int, spread: float = 3.0) -> Logits:
    """A row like that of a language model: many similar tokens and a few clear favourites."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(VOCAB) * spread
    logits[rng.integers(0, VOCAB, 12)] += 8
    return logits.astype(np.float32)


def reference(logits: Logits, params: Sampling, prompt: Sequence[int] = ()) -> dict[int, float]:
    """Probability by token, without XTC; stages in the order of llama-server."""
    scores = {token: float(value) for token, value in enumerate(logits)}
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    window = list(prompt)[-params.repeat_last_n :] if params.repeat_last_n else []
    for token, count in Counter(window).items():
        score = scores[token]
        score = score * params.repeat_penalty if score <= 0 else score / params.repeat_penalty
        scores[token] = score - count * params.frequency_penalty - params.presence_penalty
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    ranked = [item for item in ranked if item[1] > -math.inf]
    if params.top_k:
        ranked = ranked[: params.top_k]
    ranked = reference_typical(ranked, params.typical_p)
    ranked = reference_top_p(ranked, params.top_p)
    if params.min_p:
        floor = max(value for _, value in ranked) + math.log(params.min_p)
        ranked = [item for item in ranked if item[1] >= floor]
    return softmax([(token, value / params.temperature) for token, value in ranked])


def softmax(ranked: Sequence[tuple[int, float]]) -> dict[int, float]:
    highest = max(value for _, value in ranked)
    weights = {token: math.exp(value - highest) for token, value in ranked}
    total = math.fsum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def reference_top_p(ranked: list[tuple[int, float]], p: float) -> list[tuple[int, float]]:
    if p >= 1:
        return ranked
    ranked = sorted(ranked, key=lambda item: -item[1])
    probability = softmax(ranked)
    kept, reached = [], 0.0
    for item in ranked:
        kept.append(item)
        reached += probability[item[0]]
        if reached >= p:
            break
    return kept


def reference_typical(ranked: list[tuple[int, float]], p: float) -> list[tuple[int, float]]:
    if p >= 1:
        return ranked
    probability = {token: value for token, value in softmax(ranked).items() if value > 0}
    entropy = math.fsum(-value * math.log(value) for value in probability.values())
    order = sorted(probability, key=lambda token: abs(-math.log(probability[token]) - entropy))
    kept, reached = set(), 0.0
    for token in order:
        kept.add(token)
        reached += probability[token]
        if reached > p:
            break
    return [item for item in ranked if item[0] in kept]


def distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Total variation: the largest difference in the probability of any event."""
    tokens = one.keys() | other.keys()
    return sum(abs(one.get(token, 0.0) - other.get(token, 0.0)) for token in tokens) / 2


def sampled_distribution(
    logits: Logits, params: Sampling, prompt: Sequence[int] = ()
) -> dict[int, float]:
    scores = make_sampler(params, prompt=prompt).compute_scores(logits, ())
    candidates = rank_candidates(Row(scores), params)
    kept = apply_filters(candidates, params, exclude_top=False)
    weights = compute_weights(candidates.gaps[kept.start : kept.stop], params.temperature)
    tokens = np.argsort(-scores, kind="stable")[kept.start : kept.stop]
    return dict(zip(tokens.tolist(), (weights / weights.sum()).tolist(), strict=True))


def reference_tokens(logits: Logits, params: Sampling, uniform: float) -> set[int]:
    """The tokens that a draw without typical-p may give; more than one where rounding may decide.

    Their order in the draw is best first, equal ones by id; by id where no filter is on.
    """
    tokens = set()
    for factor in (1 - _ROUNDING, 1.0, 1 + _ROUNDING):
        limits = {name: getattr(params, name) * factor for name in ("top_p", "min_p")}
        changes = {name: value for name, value in limits.items() if getattr(params, name) < 1}
        probability = reference(logits, msgspec.structs.replace(params, **changes))
        has_top_k = 0 < params.top_k < len(logits)
        if not has_top_k and params.top_p >= 1 and not params.min_p:
            probability = dict(sorted(probability.items()))
        reached = 0.0
        for token, part in probability.items():
            if reached - _ROUNDING <= uniform <= reached + part + _ROUNDING:
                tokens.add(token)
            reached += part
    return tokens
