"""How much prompt work a step may take, in tokens, from what steps took so far.

While someone generates, prompt work may stretch a step by `target_seconds`, or to twice the length it
has without, if that is more. Without a target it is 50 ms, or a step of 64 rows: a processor's
attention takes from 64 rows on another way, deep in a context at a third of the cost per row, so that
smaller chunks would make a long prompt wait several times as long. Larger steps are multiples of it.
Where more prompts wait than answers are written, they get that many times more: everybody has an
equal share of the machine, and one answer does not hold up ten others. While nobody generates, a
step still ends after a moment, so that a newcomer or a cancellation need not wait for a whole prompt;
more than a few hundred tokens at once compute no faster.
"""

from __future__ import annotations

_WEIGHT = 0.3  # of the newest measurement
_LEAST_TOKENS = 4  # a prompt always gets on
_FIRST_TOKENS = 16  # before anything was measured
_USUAL_SECONDS = 0.05  # without a target
TILE_ROWS = 64  # GGML_FA_TILE_Q: with fewer rows attention is computed row by row
_ALONE_TOKENS = 512  # llama.cpp's own inner batch
_ALONE_SECONDS = 0.5


class Pace:
    """A running estimate of the seconds a prompt token and a decode step take."""

    def __init__(self, *, target_seconds: float | None, most_tokens: int) -> None:
        self._target_seconds = target_seconds
        self._most_tokens = most_tokens
        self._decode_seconds: float | None = None
        self._token_seconds: float | None = None

    def observe(self, *, prompt_tokens: int, decodes: int, seconds: float) -> None:
        """A step with so many prompt tokens and generating branches took so long."""
        if prompt_tokens == 0:
            self._decode_seconds = _mix(self._decode_seconds, seconds)
            return
        base = self._decode_seconds or 0.0
        rest = seconds - (base if decodes else 0.0)
        # At least a tenth is the prompt's: the base may stem from fuller steps than this one.
        per_token = max(rest, seconds / 10) / prompt_tokens
        self._token_seconds = _mix(self._token_seconds, per_token)

    def prompt_tokens(self, *, decodes: int, prompts: int = 1) -> int:
        """The most tokens of so many prompts that the next step may take beside `decodes` answers."""
        if not decodes:
            fast = int(_ALONE_SECONDS / self._token_seconds) if self._token_seconds else 0
            return min(max(_ALONE_TOKENS, fast), self._most_tokens)
        tokens = _FIRST_TOKENS
        if self._token_seconds is not None:
            target = _USUAL_SECONDS if self._target_seconds is None else self._target_seconds
            least = max(target, self._decode_seconds or 0.0)
            seconds = max(least, min(least * prompts / decodes, _ALONE_SECONDS))
            tokens = max(int(seconds / self._token_seconds), _LEAST_TOKENS)
        return min(self._whole_tiles(tokens, decodes), self._most_tokens)

    def _whole_tiles(self, tokens: int, decodes: int) -> int:
        """Somewhat fewer tokens, so that the step's rows fill tiles; without a target one at least."""
        whole = (tokens + decodes) // TILE_ROWS * TILE_ROWS - decodes
        if self._target_seconds is not None:
            return whole if 2 * whole >= tokens else tokens
        rest = TILE_ROWS - decodes % TILE_ROWS
        return max(whole, rest if 2 * rest >= TILE_ROWS else rest + TILE_ROWS)


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
