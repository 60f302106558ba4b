"""Compute the log-probabilities of a prompt before it goes to the generator.

The generator reports none of a prompt. So its tokens but the last are computed here, some in each
step, and the generator continues with the same caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from services.engine.backends.mlx.loading import LoadedModel
from services.engine.core import TokenLogprob
from services.engine.runner.sampling.logprobs import compute_logprob

_TOKENS = 128  # in one step: their logits are in memory together


class PromptScorer:
    """The work on one prompt of two tokens or more. The thread of the batcher only."""

    def __init__(self, loaded: LoadedModel, prompt: list[int], top: int) -> None:
        self.caches: list[Any] = loaded.make_caches()
        self.done = 0  # tokens in the caches
        self._loaded = loaded
        self._prompt = prompt
        self._top = top

    @property
    def is_done(self) -> bool:
        """Whether only the last token is left."""
        return self.done == len(self._prompt) - 1

    def advance(self, piece: Callable[[int], bytes]) -> list[TokenLogprob]:
        """Compute the next tokens; returns an entry for each token that follows one of them."""
        mx = self._loaded.library.mx
        end = min(self.done + _TOKENS, len(self._prompt) - 1)
        tokens = mx.array([self._prompt[self.done : end]])
        rows = np.array(self._loaded.compute_logits(tokens, cache=self.caches)[0], np.float32)
        entries = [
            compute_logprob(row, self._prompt[self.done + place + 1], self._top, piece)
            for place, row in enumerate(rows)
        ]
        self.done = end
        return entries
