"""Limit the prompt tokens of a step, from the time that earlier steps took.

While answers are generated, prompt work may lengthen a step by the target time, or up to twice the
length it has without prompt work, if that is more. Without a target, the budget is that of the
backend (`RowCosts`), 50 ms on a CPU, or a step of one tile, 64 rows on a CPU. From a tile on,
attention is computed in another way, which deep in a context takes a third of the time per row;
smaller chunks would make a long prompt wait several times as long. Larger steps are whole tiles.

Where more prompts wait than answers are generated, prompts get that many times more: every request
has an equal share of the machine, and one answer does not delay ten other requests.

While no answer is generated, a step is still limited to half a second, so that a new request or a
cancellation does not wait for a whole prompt. More than a few hundred tokens at once compute no
faster.
"""

from __future__ import annotations

from services.engine.core import RowCosts

_WEIGHT = 0.3  # of the newest measurement
_MIN_TOKENS = 4  # a prompt always advances
_FIRST_TOKENS = 16  # before anything was measured
_ALONE_SECONDS = 0.5


class PrefillBudget:
    """Running estimates of the time that a prompt token and a decode step take."""

    def __init__(
        self, *, target_step_seconds: float | None, max_step_tokens: int, row_costs: RowCosts
    ) -> None:
        self._row_costs = row_costs
        self._target_step_seconds = target_step_seconds
        self._max_step_tokens = max_step_tokens
        self._decode_seconds: float | None = None
        self._token_seconds: float | None = None

    @property
    def token_seconds(self) -> float | None:
        """The time that a prompt token takes; None before a prompt was computed."""
        return self._token_seconds

    @property
    def break_even_rows(self) -> float | None:
        """After so many rows, an idle cell has cost as much as computing its token again.

        None before a prompt was computed, and where idle cells cost nothing.
        """
        cost = self._row_costs.idle_cell_seconds
        return self._token_seconds / cost if cost and self._token_seconds else None

    def observe(self, *, prompt_tokens: int, decodes: int, seconds: float) -> None:
        """Record the time of a step with so many prompt tokens and generating branches."""
        if prompt_tokens == 0:
            self._decode_seconds = _mix(self._decode_seconds, seconds)
            return
        base = self._decode_seconds or 0.0
        rest = seconds - (base if decodes else 0.0)
        # At least a tenth belongs to the prompt: the base may come from fuller steps than this one.
        per_token = max(rest, seconds / 10) / prompt_tokens
        self._token_seconds = _mix(self._token_seconds, per_token)

    def max_prompt_tokens(self, *, decodes: int, prompts: int = 1) -> int:
        """Most prompt tokens of the next step, with so many prompts and generating branches."""
        if not decodes:
            fast = int(_ALONE_SECONDS / self._token_seconds) if self._token_seconds else 0
            return min(max(self._row_costs.efficient_rows, fast), self._max_step_tokens)
        tokens = _FIRST_TOKENS
        if self._token_seconds is not None:
            target = self._target_step_seconds
            if target is None:
                target = self._row_costs.prompt_seconds
            least = max(target, self._decode_seconds or 0.0)
            seconds = max(least, min(least * prompts / decodes, _ALONE_SECONDS))
            tokens = max(int(seconds / self._token_seconds), _MIN_TOKENS)
        return min(self._fill_tiles(tokens, decodes), self._max_step_tokens)

    def _fill_tiles(self, tokens: int, decodes: int) -> int:
        """Adjust the tokens so that the rows of the step fill whole tiles.

        With a target this only lowers them, to half at most. Without a target there is at least one
        tile.
        """
        tile = self._row_costs.tile_rows
        whole = (tokens + decodes) // tile * tile - decodes
        if self._target_step_seconds is not None:
            return whole if 2 * whole >= tokens else tokens
        rest = tile - decodes % tile
        return max(whole, rest if 2 * rest >= tile else rest + tile)


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
