"""Decide how long an idle sequence is kept.

On a CPU, a cell costs every row of every step a look at its mask, whether the cell is used or not
(`RowCosts.idle_cell_seconds`: about 0.3 µs with the shape of Qwen2.5-0.5B). To compute one token
again takes 8 500 µs there. After 25 000 rows have been computed beside an idle sequence, the
sequence has therefore cost as much as computing it again would, whatever its length. With a larger
model these are more rows, because its tokens cost much more to compute, but its cells hardly more to
look at. The scheduler divides the measured time of a prompt token by the cost of a cell.

It is computed again only if a request uses it, so an idle sequence is kept for that many rows
times the probability that it is used again. This probability is estimated per principal, and
separately for sequences that continue an earlier one. A chat uses what was computed before, while a
batch of a thousand prompts does not; where one key does both, the turns of the chat are counted
apart from the batch.
"""

from __future__ import annotations

from collections import OrderedDict

_MEMORY = 64  # sequences; older ones count less and less
_MAX_CLASSES = 1024

ReuseClass = tuple[str, bool]  # the principal; whether the sequence continues an earlier one


class ReuseStatistics:
    """What share of the sequences of each class is used again after it became idle."""

    def __init__(self) -> None:
        # Idle sequences, and shares of them that were used again; both fade.
        self._counts: OrderedDict[ReuseClass, tuple[float, float]] = OrderedDict()

    def record_idle(self, reuse_class: ReuseClass) -> None:
        """A sequence of this class became idle."""
        idle, reused = self._get(reuse_class)
        fade = 1 - 1 / _MEMORY
        self._put(reuse_class, idle * fade + 1, reused * fade)

    def record_reuse(self, reuse_class: ReuseClass, share: float) -> None:
        """A request began with this share, 0 to 1, of an idle sequence of this class."""
        idle, reused = self._get(reuse_class)
        self._put(reuse_class, idle, reused + share)

    def estimate_probability(self, reuse_class: ReuseClass) -> float:
        """Probability that such a sequence is used again; one half before anything is recorded."""
        idle, reused = self._get(reuse_class)
        return min((reused + 1) / (idle + 2), 1.0)

    def _get(self, reuse_class: ReuseClass) -> tuple[float, float]:
        return self._counts.get(reuse_class, (0.0, 0.0))

    def _put(self, reuse_class: ReuseClass, idle: float, reused: float) -> None:
        self._counts[reuse_class] = (idle, reused)
        self._counts.move_to_end(reuse_class)
        if len(self._counts) > _MAX_CLASSES:
            self._counts.popitem(last=False)
