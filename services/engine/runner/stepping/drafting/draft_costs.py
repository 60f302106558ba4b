"""What drafted tokens cost on this machine with this model, from the time that steps take.

Pure. A draft of k tokens makes a step longer by k rows and saves one step per accepted token. So
drafting is faster exactly if the accepted part of the drafts is larger than the time of a row
divided by the time of a step without drafts. On a CPU that is about a half, on a GPU a few percent.
"""

from __future__ import annotations

_WEIGHT = 0.2  # of the newest measurement
_ASSUMED_COST = 0.5  # of a drafted row, in steps, before it was measured
_MARGIN = 1.1  # the accepted part must be larger than the cost by this factor
_MAX_ROW_STEPS = 2.0  # a longer time of one row is a stall of something else
_MAX_EXTRA_STEPS = 4.0  # how much longer drafts may make a step, in steps without drafts


class DraftCosts:
    """Running estimates of the time of a step without drafts and of one drafted row.

    Both are kept by the number of generating branches. Steps with parts of prompts do not count.
    """

    def __init__(self) -> None:
        self._step_seconds: dict[int, float] = {}
        self._row_seconds: dict[int, float] = {}

    def observe(self, *, branches: int, drafted: int, seconds: float) -> None:
        """Record the time of a step that generated for so many branches, with `drafted` rows."""
        if not drafted:
            self._step_seconds[branches] = _mix(self._step_seconds.get(branches), seconds)
        elif (step := self._step_seconds.get(branches)) is not None:
            # One stall must not be remembered for twenty drafts.
            row = min(max(seconds - step, 0.0) / drafted, _MAX_ROW_STEPS * step)
            self._row_seconds[branches] = _mix(self._row_seconds.get(branches), row)

    def min_acceptance(self, branches: int) -> float:
        """The accepted part of drafted tokens from which drafting is faster; may be above 1."""
        return self._cost(branches) * _MARGIN

    def max_rows(self, branches: int) -> int:
        """Drafted rows that do not make a step too long for the clients that read along."""
        return max(int(_MAX_EXTRA_STEPS / max(self._cost(branches), 1e-3)), 1)

    def _cost(self, branches: int) -> float:
        step, row = self._step_seconds.get(branches), self._row_seconds.get(branches)
        return row / step if step and row is not None else _ASSUMED_COST


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
