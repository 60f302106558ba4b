"""The answers that wait until another one has computed what both prompts begin with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from services.engine.runner.mlx.generated_answer import GeneratedAnswer
from services.engine.runner.stepping.scheduler.cut_selection import MIN_CUT_TOKENS
from services.engine.runner.stepping.scheduler.request import Branch

_COMPARED = 256  # tokens at once


@dataclass(frozen=True, slots=True, eq=False)
class Lead:
    """An answer in the generator, the leader, computes the first `until` tokens of a prompt."""

    leader: GeneratedAnswer
    until: int

    @property
    def is_computed(self) -> bool:
        """Whether it has computed them already."""
        return self.leader.computed >= self.until


class Followers:
    """The answers that wait for a leader. The thread of the batcher only."""

    def __init__(self) -> None:
        self._waiting: dict[GeneratedAnswer, Lead] = {}

    @property
    def answers(self) -> list[GeneratedAnswer]:
        """Those that wait."""
        return list(self._waiting)

    def add(self, answer: GeneratedAnswer, lead: Lead) -> None:
        """Let an answer wait."""
        self._waiting[answer] = lead

    def remove(self, branch: Branch) -> None:
        """Forget an answer. One that does not wait is fine."""
        for answer in [answer for answer in self._waiting if answer.branch is branch]:
            del self._waiting[answer]

    def clear(self) -> None:
        """Forget all answers."""
        self._waiting.clear()

    def list_ready(self, generated: Collection[GeneratedAnswer]) -> list[GeneratedAnswer]:
        """Those whose leader has computed enough, or has left the generator."""
        return [
            answer
            for answer, lead in self._waiting.items()
            if lead.is_computed or lead.leader not in generated
        ]


def find_lead(
    branch: Branch, generated: Iterable[GeneratedAnswer], *, computed: int, can_cut: bool
) -> Lead | None:
    """Find the answer that computes clearly more of a prompt than the `computed` tokens that it has.

    Caches that cannot be cut are of use only where the leader will keep them: at its next cuts.
    """
    best = None
    for leader in generated:
        other = leader.branch
        if not other.request.is_shareable or other.request.realm != branch.request.realm:
            continue
        length = min(leader.inserted, len(branch.tokens) - 1)
        until = _count_common(branch.tokens, other.tokens, length)
        if not can_cut:
            until = max((cut for cut in leader.cuts if cut <= until), default=0)
        if until >= computed + MIN_CUT_TOKENS and (best is None or until > best.until):
            best = Lead(leader, until)
    return best


def _count_common(one: Sequence[int], other: Sequence[int], length: int) -> int:
    """How many of the first `length` tokens are the same in both, up to the first that differ."""
    for start in range(0, length, _COMPARED):
        end = min(start + _COMPARED, length)
        if one[start:end] != other[start:end]:
            return next(place for place in range(start, end) if one[place] != other[place])
    return length
