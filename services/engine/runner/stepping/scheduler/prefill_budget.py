"""Limit the prompt tokens of a step, from the time that earlier steps took.

While answers are generated, prompt work may lengthen a step by the target time, or up to twice the
length it has without prompt work, if that is more. Without a target, the budget is 50 ms or a step
of 64 rows. From 64 rows on, the attention of a CPU is computed in another way, which deep in a
context takes a third of the time per row; smaller chunks would make a long prompt wait several
times as long. Larger steps are multiples of 64 rows.

Where more prompts wait than answers are generated, prompts get that many times more: every request
has an equal share of the machine, and one answer does not delay ten other requests.

While no answer is generated, a step is still limited to half a second, so that a new request or a
cancellation does not wait for a whole prompt. More than a few hundred tokens at once compute no
faster.
"""

from __future__ import annotations

_WEIGHT = 0.3  # of the newest measurement
_MIN_TOKENS = 4  # a prompt always advances
_FIRST_TOKENS = 16  # before anything was measured
_DEFAULT_TARGET_SECONDS = 0.05
TILE_ROWS = 64  # GGML_FA_TILE_Q: with fewer rows, attention is computed row by row
_ALONE_TOKENS = 512  # llama.cpp's own inner batch
_ALONE_SECONDS = 0.5


class PrefillBudget:
    """Running estimates of the time that a prompt token and a decode step take."""

    def __init__(self, *, target_step_seconds: float | None, max_step_tokens: int) -> None:
        self._target_step_seconds = target_step_seconds
        self._max_step_tokens = max_step_tokens
        self._decode_seconds: float | None = None
        self._token_seconds: float | None = None

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
            return min(max(_ALONE_TOKENS, fast), self._max_step_tokens)
        tokens = _FIRST_TOKENS
        if self._token_seconds is not None:
            target = self._target_step_seconds
            least = max(
                _DEFAULT_TARGET_SECONDS if target is None else target, self._decode_seconds or 0.0
            )
            seconds = max(least, min(least * prompts / decodes, _ALONE_SECONDS))
            tokens = max(int(seconds / self._token_seconds), _MIN_TOKENS)
        return min(self._fill_tiles(tokens, decodes), self._max_step_tokens)

    def _fill_tiles(self, tokens: int, decodes: int) -> int:
        """Adjust the tokens so that the rows of the step fill whole tiles.

        With a target this only lowers them, to half at most. Without a target there is at least one
        tile.
        """
        whole = (tokens + decodes) // TILE_ROWS * TILE_ROWS - decodes
        if self._target_step_seconds is not None:
            return whole if 2 * whole >= tokens else tokens
        rest = TILE_ROWS - decodes % TILE_ROWS
        return max(whole, rest if 2 * rest >= TILE_ROWS else rest + TILE_ROWS)


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
