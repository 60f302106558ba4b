"""Penalize tokens that occurred recently: repetition, presence and frequency penalties."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling


class Penalties:
    """The last tokens of one answer, prompt included, and the penalties for them.

    The window is `repeat_last_n` tokens; a negative value means the whole context, 0 turns
    penalties off.
    """

    def __init__(self, params: Sampling, prompt: Sequence[int]) -> None:
        self._repeat = params.repeat_penalty
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        size = params.repeat_last_n
        self.is_off = size == 0 or (
            self._repeat == 1.0 and self._frequency == 0.0 and self._presence == 0.0
        )
        self._limit = size if size > 0 else None
        start = max(len(prompt) - size, 0) if size > 0 else 0
        self._window: deque[int] = deque() if self.is_off else deque(prompt[start:])
        self._counts = Counter(self._window)

    def accept(self, token: int) -> None:
        """Append a token to the answer."""
        if self.is_off:
            return
        self._window.append(token)
        self._counts[token] += 1
        if self._limit is not None and len(self._window) > self._limit:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Lower the logits of the tokens in the window, in place; negative penalties raise them."""
        if self.is_off or not self._counts:
            return
        size = len(self._counts)
        ids = np.fromiter(self._counts.keys(), np.intp, size)
        counts = np.fromiter(self._counts.values(), np.float32, size)
        scores = logits[ids]
        # Dividing a negative logit would make the token more likely, so these are multiplied.
        scores = np.where(scores <= 0, scores * self._repeat, scores / self._repeat)
        logits[ids] = scores - counts * self._frequency - self._presence
