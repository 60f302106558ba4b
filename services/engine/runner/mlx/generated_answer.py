"""One answer in the generator, and the sampler that the generator calls for it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from services.engine.runner.batcher import Answer
from services.engine.runner.sampling.logprobs import compute_logprob
from services.engine.runner.sampling.row import Row
from services.engine.runner.stepping.scheduler.request import Branch
from services.shared.errors import InternalError, SpindllError

logger = logging.getLogger(__name__)


class GeneratedAnswer:
    """See the module. The thread of the batcher only.

    An exception in a sampler would cost every sequence of the step. So errors are kept here, and
    the batcher fails the request afterwards.
    """

    def __init__(
        self, branch: Branch, answer: Answer, mx: Any, piece: Callable[[int], bytes]
    ) -> None:
        self.branch = branch
        self.error: SpindllError | None = None
        self.id = -1  # the generator's
        self.inserted = 0  # tokens that it was inserted with, those in its caches included
        self.computed = 0  # of these
        self.cuts: list[int] = []  # ascending: where its caches will be kept, as they cannot be cut
        self._answer = answer
        self._mx = mx
        self._piece = piece
        self._is_greedy = answer.is_greedy and answer.top_logprobs is None
        self._has_written = False

    @property
    def sampler(self) -> Callable[[Any], Any] | None:
        """What the generator is given for this answer; None for its own argmax."""
        return None if self._is_greedy else self._sample

    def insert(self, id_: int, *, computed: int, cuts: Sequence[int]) -> None:
        """The generator has taken it."""
        self.id, self.inserted = id_, len(self.branch.tokens)
        self.computed, self.cuts = computed, list(cuts)

    def compute(self, tokens: int) -> int | None:
        """The generator has computed more of what was inserted; returns the cut that it is now at."""
        self.computed += tokens
        return self.cuts.pop(0) if self.cuts and self.cuts[0] == self.computed else None

    @property
    def is_over(self) -> bool:
        """Whether the answer has ended, or failed."""
        return self.error is not None or self._answer.reason is not None

    def take_written(self) -> bool:
        """Whether tokens were written since the last call."""
        has_written, self._has_written = self._has_written, False
        return has_written

    def report(self, token: int, logprobs: Any) -> None:
        """Take in what the generator reports: the next token of a greedy answer."""
        if not self._is_greedy or self.is_over:
            return
        # A NaN among the logits makes all of these NaN.
        if not math.isfinite(logprobs[token].item()):
            self.error = InternalError("the model computed no valid numbers for this request")
            return
        self._guard(lambda: self._write(token, None))

    def _sample(self, logprobs: Any) -> Any:
        """The token after a row of shape [1, vocabulary], as an array of shape [1]."""
        token = 0
        if not self.is_over:
            row = Row(np.array(logprobs[0], np.float32))
            token = self._guard(lambda: self._pick_and_write(row)) or 0
        return self._mx.array([token], self._mx.uint32)

    def _pick_and_write(self, row: Row) -> int:
        token = self._answer.pick(row)
        top = self._answer.top_logprobs
        self._write(token, None if top is None else (row, top))
        return token

    def _write(self, token: int, wanted: tuple[Row, int] | None) -> None:
        logprob = None
        if wanted is not None:
            row, top = wanted
            logprob = compute_logprob(row, token, top, self._piece)
        if self._answer.write(token, logprob):
            self.branch.tokens.append(token)
            self._has_written = True

    def _guard(self, call: Callable[[], int | None]) -> int | None:
        try:
            return call()
        except SpindllError as error:
            self.error = error
        except Exception:
            logger.exception("sampling failed", extra={"id": self.branch.request.id})
            self.error = InternalError("internal error")
        return None
