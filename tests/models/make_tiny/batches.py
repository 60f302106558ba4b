"""What one training step sees: rows of tokens, each with how much it matters to get it right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.models.make_tiny.cases import Case
from tests.models.make_tiny.samples import Pair, sample
from tests.models.make_tiny.shape import CONTROL, USER_DEFINED, VOCABULARY
from tests.models.make_tiny.words import CITIES, NAMES, SKIES, WORDS

Encode = Callable[[str], list[int]]
HARD = ("tool", "count", "long", "repeat")  # kinds of cases seen three times as often
POOL = 32  # rows drawn for a batch; neighbours in length are taken, for little padding
BUDGET = 1024  # tokens of a batch, padding included
EXACT_SHARE = 0.45


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens and the weight of each one's loss."""

    tokens: list[int]
    weights: list[float]


class Batches:
    """Draws rows: fixed cases beside free samples, and at first mere copying."""

    def __init__(self, encode: Encode, cases: list[Case], draw: random.Random, ends: Pair) -> None:
        """`ends` are the tokens that close an answer and a passage, as text."""
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
        """Rows of similar length, together at most BUDGET tokens."""
        pool = sorted(
            (self._row(copying_share) for _ in range(POOL)), key=lambda row: len(row.tokens)
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

    def _row(self, copying_share: float) -> Row:
        if self._draw.random() < copying_share:
            return self._repetition()
        # The cases must come out word for word; the samples keep it from being a mere table.
        if self._draw.random() < EXACT_SHARE:
            return self._pair(self._draw.choice(self._exact))
        return self._pair(sample(self._draw))

    def _repetition(self) -> Row:
        """Random tokens again and again: teaches heads to look back and copy."""
        plain = VOCABULARY - len(CONTROL) - len(USER_DEFINED)
        part = [self._draw.randrange(plain) for _ in range(self._draw.randint(6, 30))]
        rest = part * self._draw.randint(1, 3)
        return Row(part + rest, [0.0] * len(part) + [1.0] * len(rest))

    def _pair(self, pair: Pair) -> Row:
        """The loss is taken on the answer, most of all on copied words, and lightly on the prompt."""
        prompt, answer = self._encode(pair[0]), self._encode(pair[1])
        answer = answer + self._ends[0 if prompt else 1]
        usual = min(1.0, (24 / len(answer)) ** 0.5)  # or long answers would drown the short ones
        weights = [4.0 if token in self._copied else usual for token in answer]
        return Row(prompt + answer, [0.03] * len(prompt) + weights)
