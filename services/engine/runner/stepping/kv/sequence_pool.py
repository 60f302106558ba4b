"""The sequences of one context: who holds which tokens, what idle ones are still good for.

Pure books. What the backend has to do is written down as moves, in the order they must happen,
before the next step; `cells` is exact once they have.

    busy     lent to an answer under way
    cached   idle; its tokens may begin another answer, until its id or its cells are needed, or
             until it cost more than it is worth (reuse.py)

The memory policy decides what a sequence may give: dense and window memories any beginning, a
recurrent one its present state and its checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.engine.core import MemoryPolicy
from services.engine.runner.stepping.kv.cells import Cells, Run
from services.engine.runner.stepping.kv.prefix_tree import PrefixTree
from services.engine.runner.stepping.kv.retention import Habit, Reuse

_LOOK_ROWS = 64  # between two looks at what idle sequences cost
_GOES_ON = 0.5  # a sequence that has more than this share of an earlier one goes on with it
_CHECKPOINT_BYTES = 512 << 20  # kept in all, beside the context


@dataclass(slots=True, eq=False)
class Held:
    """One sequence of the context. `tokens[:length]` are computed; `tokens` may be longer."""

    id: int
    tokens: list[int]
    leaf: Run
    length: int = 0
    is_public: bool = True  # others may begin with it
    habit: Habit = ("", False)  # of whose sequences; and whether it goes on with an earlier one
    idle_from: int = 0  # rows that had been computed when it became idle
    checkpoints: dict[int, bytes] = field(default_factory=dict)  # by length, oldest first


@dataclass(frozen=True, slots=True)
class Match:
    """A computed beginning: the first `length` tokens of `source`."""

    source: Held
    length: int
    checkpoint: bytes | None = None  # where the source's present state is not the one of `length`


@dataclass(frozen=True, slots=True)
class Share:
    """Backend.share, and a restore where there is a checkpoint."""

    source: int
    target: int
    end: int
    checkpoint: bytes | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Backend.cut."""

    sequence: int
    start: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Backend.drop."""

    sequence: int


Move = Share | Cut | Drop


class Sequences:
    """All sequences of a context. One thread."""

    def __init__(
        self, *, capacity: int, ids: int, policy: MemoryPolicy, worth_rows: int | None = None
    ) -> None:
        """`capacity` in cells; sequence ids are 0 to ids - 1.

        `worth_rows`: rows of steps that cost as much as an idle sequence beside them would to compute
        again; None where idle sequences cost nothing.
        """
        self.cells = Cells(capacity)
        self.policy = policy
        self._free_ids = list(range(ids - 1, -1, -1))
        self._busy: dict[int, Held] = {}
        self._cached: OrderedDict[int, Held] = OrderedDict()  # least recently used first
        self._tree = PrefixTree(self._slice_of)
        self._moves: list[Move] = []
        self._worth_rows = worth_rows
        self._reuse = Reuse()
        self._rows = 0  # computed so far
        self._look_at = 0
        self._checkpoint_bytes = 0

    @property
    def is_recurrent(self) -> bool:
        """Whether only exact states can be shared."""
        return self.policy is MemoryPolicy.RECURRENT

    @property
    def cached_count(self) -> int:
        """Idle sequences kept."""
        return len(self._cached)

    def take_moves(self) -> list[Move]:
        """What the backend must do now, in order. They are forgotten here."""
        moves, self._moves = self._moves, []
        return moves

    def find(self, tokens: Sequence[int]) -> Match | None:
        """The longest beginning of `tokens`, short of all, that is computed and may be shared."""
        limit = len(tokens) - 1  # one token must be computed: its logits are wanted
        if self.is_recurrent:
            return self._find_state(tokens, limit)
        found = self._tree.find(tokens)
        if found is None:
            return None
        source = self._busy.get(found[0]) or self._cached[found[0]]
        length = min(found[1], limit)
        return Match(source, length) if length > 0 else None

    def lend(
        self, tokens: list[int], match: Match | None, *, is_public: bool, principal: str
    ) -> Held:
        """A busy sequence for an answer with these tokens, beginning with what was found."""
        share = match.length / match.source.length if match is not None else 0.0
        if match is not None and match.source.id in self._cached:
            self._reuse.used(match.source.habit, share)
        habit = (principal, share > _GOES_ON)
        if match is not None and self._can_adopt(match):
            return self._adopt(match.source, tokens, is_public=is_public, habit=habit)
        held = Held(
            self._new_id(match), tokens, self.cells.begin(), is_public=is_public, habit=habit
        )
        self._busy[held.id] = held
        if match is not None:
            self._begin_with(held, match)
        if is_public:
            self._tree.enter(held.id, tokens, held.length)
        return held

    def grow(self, held: Held, length: int) -> None:
        """The backend computed the sequence's tokens up to `length`."""
        held.leaf = self.cells.grow(held.leaf, length - held.length)
        held.length = length
        if held.is_public:
            self._tree.enter(held.id, held.tokens, length)

    def cut(self, held: Held, computed: int) -> None:
        """Beyond its length the backend computed up to `computed`: have it forget that."""
        if computed > held.length:
            self._moves.append(Cut(held.id, held.length))

    def keep(self, held: Held) -> None:
        """Give a sequence back; it is cached if anyone could use it."""
        if not held.is_public or held.length == 0:
            self.drop(held)
            return
        del self._busy[held.id]
        self._cached[held.id] = held
        held.idle_from = self._rows
        self._reuse.left(held.habit)

    def pass_rows(self, rows: int) -> None:
        """So many rows were computed beside the cached sequences: drop those that cost too much."""
        self._rows += rows
        if self._worth_rows is None or self._rows < self._look_at:
            return
        self._look_at = self._rows + _LOOK_ROWS
        for held in list(self._cached.values()):
            worth = self._worth_rows * self._reuse.chance(held.habit)
            if self._rows - held.idle_from > worth:
                self.drop(held)

    def drop(self, held: Held) -> None:
        """Forget a sequence, busy or cached."""
        self._busy.pop(held.id, None)
        self._cached.pop(held.id, None)
        self._tree.remove(held.id)
        self.cells.release(held.leaf)
        self._checkpoint_bytes -= sum(map(len, held.checkpoints.values()))
        self._free_ids.append(held.id)
        self._moves.append(Drop(held.id))

    def evict(self) -> bool:
        """Drop the least recently used cached sequence; False when there is none."""
        if not self._cached:
            return False
        self.drop(next(iter(self._cached.values())))
        return True

    def add_checkpoint(self, held: Held, checkpoint: bytes) -> None:
        """What the backend took at the sequence's present length."""
        held.checkpoints[held.length] = checkpoint
        self._checkpoint_bytes += len(checkpoint)
        for other in (*self._cached.values(), *self._busy.values()):
            while self._checkpoint_bytes > _CHECKPOINT_BYTES and other.checkpoints:
                oldest = next(iter(other.checkpoints))
                self._checkpoint_bytes -= len(other.checkpoints.pop(oldest))

    def _find_state(self, tokens: Sequence[int], limit: int) -> Match | None:
        best: Match | None = None
        for held in self._all():
            for length, checkpoint in ((held.length, None), *held.checkpoints.items()):
                longest = best.length if best else 0
                if longest < length <= limit and held.tokens[:length] == tokens[:length]:
                    best = Match(held, length, checkpoint)
        return best

    def _can_adopt(self, match: Match) -> bool:
        """Whether all of an idle source is wanted: then it goes on as the new sequence."""
        source = match.source
        return source.id in self._cached and match.length == source.length

    def _adopt(self, held: Held, tokens: list[int], *, is_public: bool, habit: Habit) -> Held:
        self._busy[held.id] = self._cached.pop(held.id)
        held.tokens = tokens
        held.is_public = is_public
        held.habit = habit
        if not is_public:
            self._tree.remove(held.id)
        return held

    def _begin_with(self, held: Held, match: Match) -> None:
        held.leaf, empty = self.cells.share(match.source.leaf, match.length), held.leaf
        self.cells.release(empty)
        held.length = match.length
        self._moves.append(Share(match.source.id, held.id, match.length, match.checkpoint))
        if match.source.id in self._cached:
            self._cached.move_to_end(match.source.id)
            match.source.idle_from = self._rows

    def _new_id(self, match: Match | None) -> int:
        """A free id, if need be that of the least recently used cached sequence but the source."""
        if not self._free_ids:
            keep = match.source.id if match else None
            victim = next(held for id_, held in self._cached.items() if id_ != keep)
            self.drop(victim)
        return self._free_ids.pop()

    def _all(self) -> Iterable[Held]:
        return (held for held in (*self._cached.values(), *self._busy.values()) if held.is_public)

    def _slice_of(self, holder: int, start: int, end: int) -> Sequence[int]:
        held = self._busy.get(holder) or self._cached[holder]
        return held.tokens[start : min(end, held.length)]
