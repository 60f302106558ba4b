"""DRY: penalize tokens that continue a stretch which the text already contains.

The logit of a token that would lengthen a repetition of n tokens is lowered by multiplier * base **
(n - allowed_length). This is llama.cpp's rule (ported there from
github.com/LostRuins/koboldcpp/pull/982), computed in another way: instead of a Z-function over the
whole context for every token, the length of the match that ends at each earlier position is kept up
to date.

    tokens    a b c c b c y a b c
    matches   0 0 3 1 0 2 0 0 0        the last 3 tokens also end at position 2, and so on
    next      c would make 4 (position 3), b 2 (position 4), y 3 (position 6)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling

_BREAKERS = frozenset(b'\n:"*')  # llama.cpp's default sequence breakers, single bytes
_LOG_FLOAT32_MAX = 88.7228391
_MAX_COST = 1e30  # rules a token out, and is still a float32 after the subtraction


def find_breaker_tokens(vocab_size: int, piece: Callable[[int], bytes]) -> frozenset[int]:
    """Find the tokens that end a repetition: their text contains a default sequence breaker.

    This is a pass over the whole vocabulary; call it once per model.
    """
    return frozenset(token for token in range(vocab_size) if not _BREAKERS.isdisjoint(piece(token)))


class Dry:
    """The tokens of one answer, prompt included, and the repetitions that end at its last token."""

    def __init__(self, params: Sampling, prompt: Sequence[int], breakers: Iterable[int]) -> None:
        self._multiplier = params.dry_multiplier
        self._base = params.dry_base
        self._allowed = params.dry_allowed_length
        self.is_off = self._multiplier == 0.0 or self._base < 1.0
        self._breakers = frozenset(breakers)
        # Longer matches cost no more, because the penalty would exceed float32.
        exponent = _LOG_FLOAT32_MAX / math.log(self._base) if self._base > 1.000001 else 0.0
        self._longest = min(int(exponent) + self._allowed, np.iinfo(np.int32).max - 1)
        # Two arrays of one capacity: [0, _size) tokens; [0, _size - 1) matches.
        self._tokens = np.zeros(1024, np.int32)
        self._matches = np.zeros(1024, np.int32)
        self._size = 0
        self._since_breaker = 0
        if not self.is_off:
            self._load(np.asarray(prompt, np.int32))

    def accept(self, token: int) -> None:
        """Append a token to the answer."""
        if self.is_off:
            return
        if self._size == len(self._tokens):
            self._grow(2 * self._size)
        self._tokens[self._size] = token
        self._size += 1
        # Where the tokens agree, the match that ends at i extends the one that ended at i - 1.
        matches = self._matches[: self._size - 1]
        matches[1:] = matches[:-1].copy()
        matches[:1] = 0
        np.minimum(matches + 1, self._longest, out=matches)
        matches *= self._tokens[: self._size - 1] == token
        self._since_breaker = 0 if token in self._breakers else self._since_breaker + 1

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Lower the logits of tokens that would continue a repetition, in place."""
        if self.is_off or self._size <= self._allowed or self._since_breaker < self._allowed:
            return
        matches = np.minimum(self._matches[: self._size - 1], self._since_breaker)
        ends = np.flatnonzero(matches >= self._allowed)
        ends = ends[np.argsort(matches[ends], kind="stable")]
        # In ascending order, so that the dictionary keeps the longest match of each token.
        longest = dict(zip(self._tokens[ends + 1].tolist(), matches[ends].tolist(), strict=True))
        for token, length in longest.items():
            if token not in self._breakers:
                exponent = min(length, self._longest) - self._allowed
                logits[token] -= min(self._multiplier * self._base**exponent, _MAX_COST)

    def _load(self, prompt: NDArray[np.int32]) -> None:
        """Load a whole prompt: only matches with its end count, so compare backwards from there."""
        self._size = len(prompt)
        self._grow(max(len(self._tokens), 2 * self._size))
        self._tokens[: self._size] = prompt
        ends = np.arange(max(self._size - 1, 0))
        length = 0
        while len(ends) and length < self._longest:
            # Keep the positions whose match is longer than `length`.
            ends = ends[prompt[ends - length] == prompt[self._size - 1 - length]]
            length += 1
            self._matches[ends] = length
            ends = ends[ends >= length]
        breaks = np.flatnonzero(np.isin(prompt, list(self._breakers)))
        self._since_breaker = self._size - 1 - int(breaks[-1]) if len(breaks) else self._size

    def _grow(self, capacity: int) -> None:
        more = capacity - len(self._tokens)
        self._tokens = np.concatenate([self._tokens, np.zeros(more, np.int32)])
        self._matches = np.concatenate([self._matches, np.zeros(more, np.int32)])
