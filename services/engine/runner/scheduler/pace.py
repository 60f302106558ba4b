"""How much prompt work a step may take, in tokens, from what steps took so far.

While someone generates, prompt work may stretch a step by `target_seconds`, or to twice the length it
has without, if that is more. Without a target it is 50 ms, or as much more as a chunk of 64 tokens
takes, within reason: on a processor a chunk of a few tokens costs nearly what a large one does, so
that smoother answers would make a long prompt wait several times as long. Where
more prompts wait than answers are written, by that many times more: everybody gets an equal share of
the machine, and one answer does not hold up ten others. While nobody generates, a step still ends
after a moment, so that a newcomer or a cancellation need not wait for a whole prompt; more than a few
hundred tokens at once compute no faster.
"""

from __future__ import annotations

_WEIGHT = 0.3  # of the newest measurement
_LEAST_TOKENS = 4  # a prompt always gets on
_FIRST_TOKENS = 16  # before anything was measured
_USUAL_SECONDS = 0.05  # without a target
_EFFICIENT_TOKENS = 64  # from here on a token hardly gets cheaper, on any processor
_MOST_SECONDS = 0.8  # ... and yet running answers must not seem to have stopped
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
        if self._token_seconds is None:
            return min(_ALONE_TOKENS, self._most_tokens) if not decodes else _FIRST_TOKENS
        if decodes:
            least = max(self._target(self._token_seconds), self._decode_seconds or 0.0)
            seconds = max(least, min(least * prompts / decodes, _ALONE_SECONDS))
            return self._bounded(int(seconds / self._token_seconds))
        fast = int(_ALONE_SECONDS / self._token_seconds)
        return self._bounded(max(_ALONE_TOKENS, fast))

    def _target(self, token_seconds: float) -> float:
        if self._target_seconds is not None:
            return self._target_seconds
        return max(_USUAL_SECONDS, min(_EFFICIENT_TOKENS * token_seconds, _MOST_SECONDS))

    def _bounded(self, tokens: int) -> int:
        return max(_LEAST_TOKENS, min(tokens, self._most_tokens))


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
