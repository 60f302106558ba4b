"""Find the computed prefixes of prompts among the sequences of a pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from services.engine.runner.stepping.kv.pooled_sequence import Match, PooledSequence
from services.engine.runner.stepping.kv.prefix_tree import PrefixForest


class PrefixSearch:
    """Reads the sequences of a pool, which adds and removes them."""

    def __init__(
        self,
        busy: Mapping[int, PooledSequence],
        cached: Mapping[int, PooledSequence],
        *,
        is_recurrent: bool,
        window: int,
    ) -> None:
        """`is_recurrent`: only exact states match. `window`: tokens, 0 without one."""
        self._busy = busy
        self._cached = cached
        self._is_recurrent = is_recurrent
        self._window = window
        self._prefixes = PrefixForest(self._read_tokens)

    def insert(self, sequence: PooledSequence) -> None:
        """Let a sequence be found, up to its present length."""
        self._prefixes.insert(sequence.realm, sequence.id, sequence.tokens, sequence.length)

    def remove(self, sequence: PooledSequence) -> None:
        """Forget a sequence. An unknown one is fine."""
        self._prefixes.remove(sequence.realm, sequence.id)

    def find(self, tokens: Sequence[int], *, realm: str) -> Match | None:
        """Find the longest prefix of `tokens`, but not all, that is computed in their realm."""
        limit = len(tokens) - 1  # the last token must be computed, because its logits are needed
        if self._is_recurrent:
            return self._find_state(tokens, limit, realm)

        def is_intact(id_: int, length: int) -> bool:
            return self.holds_window(self._get(id_), min(length, limit))

        found = self._prefixes.find(realm, tokens, is_intact if self._window else None)
        if found is None or (length := min(found[1], limit)) <= 0:
            return None
        return Match(self._get(found[0]), length)

    def holds_window(self, sequence: PooledSequence, length: int) -> bool:
        """Whether the sequence can be continued after its first `length` tokens."""
        return sequence.first == 0 or length >= sequence.first + self._window

    def _find_state(self, tokens: Sequence[int], limit: int, realm: str) -> Match | None:
        best: Match | None = None
        for sequence in self._list_shareable(realm):
            for length, checkpoint in ((sequence.length, None), *sequence.checkpoints.items()):
                longest = best.length if best else 0
                if longest < length <= limit and _begin_alike(sequence.tokens, tokens, length):
                    best = Match(sequence, length, checkpoint)
        return best

    def _get(self, id_: int) -> PooledSequence:
        return self._busy.get(id_) or self._cached[id_]

    def _list_shareable(self, realm: str) -> Iterable[PooledSequence]:
        everything = (*self._cached.values(), *self._busy.values())
        return (s for s in everything if s.is_shareable and s.realm == realm)

    def _read_tokens(self, id_: int, start: int, end: int) -> Sequence[int]:
        sequence = self._get(id_)
        return sequence.tokens[start : min(end, sequence.length)]


def _begin_alike(one: Sequence[int], other: Sequence[int], length: int) -> bool:
    # Most that differ do so in the last token too, and copies of long prompts take time.
    return one[length - 1] == other[length - 1] and one[:length] == other[:length]
