"""The leaders: running branches whose prompts others wait for instead of computing them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.engine.runner.stepping.kv.pooled_sequence import Match
from services.engine.runner.stepping.kv.prefix_tree import BLOCK, PrefixForest
from services.engine.runner.stepping.scheduler.request import Branch, Following


@dataclass(frozen=True, slots=True)
class Prefix:
    """Where a branch begins: after a computed prefix, or after one that its leader computes."""

    match: Match | None
    following: Following | None

    @property
    def computed(self) -> int:
        """Tokens that are in memory."""
        return self.match.length if self.match is not None else 0

    @property
    def saved_tokens(self) -> int:
        """Tokens that the branch need not compute."""
        return self.following.until if self.following is not None else self.computed


class Leaders:
    """The running branches that have prompt left to compute, by admission number."""

    def __init__(self) -> None:
        self._leaders: dict[int, Branch] = {}
        self._upcoming = PrefixForest(self._read_tokens)  # the tokens that leaders will compute

    def add(self, branch: Branch) -> None:
        """Let an admitted branch lead, if others may share its tokens and it has more than one."""
        if branch.request.is_shareable and branch.pending > 1:
            self._leaders[branch.admission_number] = branch
            self._upcoming.insert(
                branch.request.realm, branch.admission_number, branch.tokens, len(branch.tokens)
            )

    def remove(self, branch: Branch) -> None:
        """Let a branch lead no more. One that does not lead is fine."""
        if self._leaders.get(branch.admission_number) is branch:
            del self._leaders[branch.admission_number]
            self._upcoming.remove(branch.request.realm, branch.admission_number)

    def find(self, branch: Branch, *, computed: int, before: int) -> Following | None:
        """Find a branch admitted before number `before` that will compute clearly more of a prompt.

        `computed` tokens of it are in memory already.
        """

        def may_lead(admission_number: int, _length: int) -> bool:
            leader = self._leaders[admission_number]
            return admission_number < before and leader is not branch

        found = self._upcoming.find(branch.request.realm, branch.tokens, may_lead)
        if found is None:
            return None
        leader = self._leaders[found[0]]
        until = min(found[1], len(branch.tokens) - 1)
        if until < computed + BLOCK or leader.computed >= until:
            return None
        return Following(leader, leader.admission_number, until)

    def must_wait(self, following: Following) -> bool:
        """Whether the leader still leads and has not computed the prefix yet."""
        leader = following.leader
        return following.admission_number in self._leaders and leader.computed < following.until

    def _read_tokens(self, admission_number: int, start: int, end: int) -> Sequence[int]:
        return self._leaders[admission_number].tokens[start:end]


def group_followers(running: Sequence[Branch]) -> dict[Branch, list[Branch]]:
    """The branches that wait for a leader's prompt, directly or behind another follower."""
    followers: dict[Branch, list[Branch]] = {}
    for branch in running:
        following = branch.following
        # A leader that was preempted leads no more, and may follow the very branch it led.
        while following is not None and following.is_current:
            followers.setdefault(following.leader, []).append(branch)
            following = following.leader.following
    return followers
