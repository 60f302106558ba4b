"""Draw the batches of training: rows of tokens with a weight for the loss of each token."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.models.make_tiny.cases import Case
from tests.models.make_tiny.samples import Pair, draw_sample
from tests.models.make_tiny.shape import CONTROL, USER_DEFINED, VOCABULARY
from tests.models.make_tiny.words import CITIES, NAMES, SKIES, WORDS

Encode = Callable[[str], list[int]]
HARD = ("tool", "count", "long", "repeat")  # kinds of cases that are drawn three times as often
POOL = 32  # rows drawn per batch; rows of similar length are taken, to limit padding
BUDGET = 1024  # tokens per batch, including padding
EXACT_SHARE = 0.45


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, and the weight of the loss of each token."""

    tokens: list[int]
    weights: list[float]


class Batches:
    """Draws rows: fixed cases, random samples, and repetitions that teach copying."""

    def __init__(self, encode: Encode, cases: list[Case], draw: random.Random, ends: Pair) -> None:
        """`ends` are the texts of the tokens that end an answer and a passage."""
        self._encode = encode
        self._draw = draw
        self._ends = [encode(end) for end in ends]
        exact = [(case.rendered(), case.taught) for case in cases]
        hard = [pair for pair, case in zip(exact, cases, strict=True) if case.name.startswith(HARD)]
        self._exact = exact + hard * 2
        spoken = [
            encode(text) for word in CITIES + NAMES + WORDS + SKIES for text in (word, " " + word)
        ]
        self._copied = {tokens[0] for tokens in spoken if len(tokens) == 1}

    def draw(self, copying_share: float) -> list[Row]:
        """Draw rows of similar length with at most BUDGET tokens in total, or a single row."""
        pool = sorted(
            (self._draw_row(copying_share) for _ in range(POOL)), key=lambda row: len(row.tokens)
        )
        start = self._draw.randrange(POOL)
        batch: list[Row] = []
        width = 0
        for row in pool[start:] + pool[:start][::-1]:
            width = max(width, len(row.tokens))
            if batch and width * (len(batch) + 1) > BUDGET:
                break
            batch.append(row)
        return batch

    def _draw_row(self, copying_share: float) -> Row:
        if self._draw.random() < copying_share:
            return self._draw_repetition()
        # Cases must be answered exactly; samples prevent that the model only memorises the cases.
        if self._draw.random() < EXACT_SHARE:
            return self._encode_pair(self._draw.choice(self._exact))
        return self._encode_pair(draw_sample(self._draw))

    def _draw_repetition(self) -> Row:
        """Random tokens, repeated one to three times: teaches attention heads to copy."""
        plain = VOCABULARY - len(CONTROL) - len(USER_DEFINED)
        part = [self._draw.randrange(plain) for _ in range(self._draw.randint(6, 30))]
        rest = part * self._draw.randint(1, 3)
        return Row(part + rest, [0.0] * len(part) + [1.0] * len(rest))

    def _encode_pair(self, pair: Pair) -> Row:
        """Weight the answer, copied words most, and the prompt only slightly."""
        prompt, answer = self._encode(pair[0]), self._encode(pair[1])
        answer = answer + self._ends[0 if prompt else 1]
        # Long answers get less weight per token, otherwise they would outweigh short ones.
        default = min(1.0, (24 / len(answer)) ** 0.5)
        weights = [4.0 if token in self._copied else default for token in answer]
        return Row(prompt + answer, [0.03] * len(prompt) + weights)
