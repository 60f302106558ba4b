"""Choose the lengths of a prompt at which its state is kept for other prompts.

A memory that cannot be cut at any token has states of exact lengths only. Useful are those at which
other prompts part from this one: where messages end, which the request names, and shortly before the
end, because the next turn of a chat, or the same prompt again, differs only in what the template
puts last.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.engine.runner.stepping.scheduler.request import Request

MIN_CUT_TOKENS = 64  # that a state must save beyond another one: fewer are computed as fast
_BEFORE_END = 8  # tokens
_MIN_PROMPT = 64  # tokens; for shorter prompts a state shortly before the end does not pay


def space_cuts(lengths: Sequence[int], prompt_length: int) -> tuple[int, ...]:
    """Those of the lengths, ascending, that lie inside the prompt and not too close together."""
    cuts: list[int] = []
    for length in lengths:
        if length >= (cuts[-1] if cuts else 0) + MIN_CUT_TOKENS and length < prompt_length:
            cuts.append(length)
    return tuple(cuts)


def list_cuts(request: Request) -> tuple[int, ...]:
    """All lengths at which the state of a prompt is worth keeping, ascending."""
    length = len(request.prompt)
    end = length - _BEFORE_END
    least = request.cuts[-1] + MIN_CUT_TOKENS if request.cuts else 0
    return (*request.cuts, end) if length >= _MIN_PROMPT and end >= least else request.cuts


def list_cuts_ahead(request: Request, computed: int) -> list[int]:
    """The cuts that pay behind the first `computed` tokens of a prompt, ascending.

    Where messages end, what was computed before may be an answer that ended there: its state is kept
    already, and another one a few tokens later would be as large.
    """
    return [
        cut
        for cut in list_cuts(request)
        if cut >= computed + (MIN_CUT_TOKENS if cut in request.cuts else 1)
    ]
