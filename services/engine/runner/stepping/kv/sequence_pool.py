"""The sequences of one context: which tokens each one holds, and which idle ones are kept.

This is accounting only. What the backend has to do is recorded as operations, which must be
executed in their order before the next step. `cells` is exact once they have been executed.

    busy     lent to an answer that is being generated
    cached   idle; another answer may begin with its tokens, until its id or its cells are needed,
             or until keeping it has cost more than it is worth (retention.py)

The memory policy decides which prefixes of a sequence can be shared: a dense memory shares any
prefix, a recurrent memory only its present state and its checkpoints. A sliding-window memory
shares a prefix while it holds the window before its end. Any step may take older cells away, so the
backend is asked after each step; a prefix may be kept longer as a sequence of its own.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from services.engine.core import MAX_CHECKPOINT_BYTES, MemoryPolicy
from services.engine.runner.stepping.kv.cells import Cells
from services.engine.runner.stepping.kv.checkpoints import Checkpoints
from services.engine.runner.stepping.kv.memory_operations import Cut, Drop, MemoryOperation, Share
from services.engine.runner.stepping.kv.pooled_sequence import Match, PooledSequence
from services.engine.runner.stepping.kv.prefix_search import PrefixSearch
from services.engine.runner.stepping.kv.retention import ReuseClass, ReuseStatistics

_CHECK_ROWS = 64  # between two checks of what idle sequences have cost
_CONTINUATION_SHARE = 0.5  # a sequence continues one of which it shares more than this part


class SequencePool:
    """All sequences of a context. One thread."""

    def __init__(
        self,
        *,
        capacity: int,
        id_count: int,
        policy: MemoryPolicy,
        window: int = 0,
        takes_checkpoints: bool = False,
        shares_cells: bool = True,
        break_even_rows: float | None = None,
    ) -> None:
        """`capacity` is in cells; sequence ids are 0 to id_count - 1.

        `window`: tokens of a sliding window, 0 without one. `takes_checkpoints`: whether a
        recurrent memory can continue at a length whose state was saved. `shares_cells`: whether a
        cell may belong to several sequences; if not, each has an equal part. `break_even_rows`:
        after that many rows, keeping an idle sequence has cost as much as computing it again would;
        None where idle sequences cost nothing.
        """
        self.cells = Cells(capacity)
        self.takes_checkpoints = takes_checkpoints
        self.shares_cells = shares_cells
        self.is_recurrent = policy is MemoryPolicy.RECURRENT  # only exact states can be shared
        is_dense = policy is MemoryPolicy.DENSE
        self.keeps_prefixes = shares_cells and not (is_dense or takes_checkpoints)
        self._window = window
        self._max_prefixes = max(1, id_count // 4)  # that `keep_prefix` keeps
        self._free_ids = list(range(id_count))  # a heap; see docs/decisions/009
        self._busy: dict[int, PooledSequence] = {}
        self._cached: OrderedDict[int, PooledSequence] = OrderedDict()  # least recently used first
        self._search = PrefixSearch(
            self._busy, self._cached, is_recurrent=self.is_recurrent, window=window
        )
        self._operations: list[MemoryOperation] = []
        self.break_even_rows = break_even_rows
        self._reuse_statistics = ReuseStatistics()
        self._rows = 0  # computed so far
        self._next_check = 0  # in rows
        self._checkpoints = Checkpoints(MAX_CHECKPOINT_BYTES)

    @property
    def can_share_prefixes(self) -> bool:
        """Whether a sequence can be shared at more lengths than its present one."""
        return self.takes_checkpoints or not self.is_recurrent

    @property
    def cached_count(self) -> int:
        """Number of idle sequences that are kept."""
        return len(self._cached)

    def take_operations(self) -> list[MemoryOperation]:
        """Remove and return what the backend must do now, in order."""
        operations, self._operations = self._operations, []
        return operations

    def find(self, tokens: Sequence[int], *, realm: str) -> Match | None:
        """Find the longest prefix of `tokens`, but not all, that is computed in their realm."""
        return self._search.find(tokens, realm=realm)

    def refresh_windows(self, first_position: Callable[[int], int]) -> None:
        """Read what a sliding-window memory still holds, after each step or load, failed or not."""
        if not self._window:
            return
        for sequence in (*self._busy.values(), *self._cached.values()):
            sequence.first = first_position(sequence.id)

    def lend(
        self,
        tokens: list[int],
        match: Match | None,
        *,
        is_shareable: bool,
        principal: str,
        realm: str,
    ) -> PooledSequence:
        """Lend a sequence to an answer with these tokens; it begins with the matched prefix."""
        match = self._without_last_id(match)
        share = 0.0  # of an earlier chat, not of a prefix that is kept for any
        if match is not None and not match.source.is_prefix:
            share = match.length / match.source.length
            if match.source.id in self._cached:
                self._reuse_statistics.record_reuse(match.source.reuse_class, share)
        reuse_class = (principal, share > _CONTINUATION_SHARE)
        if match is not None and self._can_adopt(match):
            return self._adopt(
                match.source, tokens, is_shareable=is_shareable, reuse_class=reuse_class
            )
        sequence = PooledSequence(
            self._new_id(match),
            tokens,
            self.cells.begin(),
            is_shareable=is_shareable,
            realm=realm,
            reuse_class=reuse_class,
        )
        self._busy[sequence.id] = sequence
        if match is not None:
            self._begin_with(sequence, match)
        if is_shareable:
            self._search.insert(sequence)
        return sequence

    def grow(self, sequence: PooledSequence, length: int) -> None:
        """The backend has computed or loaded the tokens of the sequence up to `length`."""
        sequence.leaf = self.cells.grow(sequence.leaf, length - sequence.length)
        sequence.length = length
        if sequence.is_shareable:
            self._search.insert(sequence)

    def cut(self, sequence: PooledSequence, computed: int) -> None:
        """Have the backend forget the tokens from the sequence's length up to `computed`."""
        if computed > sequence.length:
            self._operations.append(Cut(sequence.id, sequence.length))

    def give_back(self, sequence: PooledSequence) -> None:
        """End a loan. The sequence is cached if another answer could use it."""
        if not sequence.is_shareable or sequence.length == 0:
            self.drop(sequence)
            return
        del self._busy[sequence.id]
        self._cached[sequence.id] = sequence
        sequence.idle_since_row = self._rows
        self._reuse_statistics.record_idle(sequence.reuse_class)

    def count_rows(self, rows: int) -> None:
        """Count rows that were computed, and drop the cached sequences that have cost too much."""
        self._rows += rows
        if self.break_even_rows is None or self._rows < self._next_check:
            return
        self._next_check = self._rows + _CHECK_ROWS
        for sequence in list(self._cached.values()):
            probability = self._reuse_statistics.estimate_probability(sequence.reuse_class)
            if self._rows - sequence.idle_since_row > self.break_even_rows * probability:
                self.drop(sequence)

    def drop(self, sequence: PooledSequence) -> None:
        """Forget a sequence, busy or cached."""
        self._busy.pop(sequence.id, None)
        self._cached.pop(sequence.id, None)
        self._search.remove(sequence)
        self.cells.release(sequence.leaf)
        self._checkpoints.drop(sequence)
        heapq.heappush(self._free_ids, sequence.id)
        self._operations.append(Drop(sequence.id))

    def drop_cached(self, ids: Collection[int]) -> None:
        """Drop those of the sequences that are cached."""
        for sequence in [s for s in self._cached.values() if s.id in ids]:
            self.drop(sequence)

    def holds(self, sequence: PooledSequence, length: int) -> bool:
        """Whether the sequence was not dropped, and can be continued after `length` tokens."""
        present = self._busy.get(sequence.id) or self._cached.get(sequence.id)
        return (
            present is sequence
            and sequence.length >= length
            and self._search.holds_window(sequence, length)
        )

    def evict(self) -> bool:
        """Drop the least recently used cached sequence; False when there is none."""
        if not self._cached:
            return False
        self.drop(next(iter(self._cached.values())))
        return True

    def add_checkpoint(self, sequence: PooledSequence, checkpoint: bytes) -> None:
        """Keep the backend's checkpoint of the sequence's present length, within the byte limit."""
        self._checkpoints.add(sequence, checkpoint)

    def keep_prefix(self, sequence: PooledSequence) -> None:
        """Keep the present tokens of a lent sequence as an idle one too, where `keeps_prefixes`.

        Others begin with it. Where too many are kept, the least recently used one is dropped.
        """
        kept = [other for other in self._cached.values() if other.is_prefix]
        tokens = sequence.tokens[: sequence.length]
        if any(other.realm == sequence.realm and other.tokens == tokens for other in kept):
            return
        if len(kept) >= self._max_prefixes:
            self.drop(kept[0])
        elif not self._free_ids and not self.evict():
            return
        prefix = PooledSequence(
            heapq.heappop(self._free_ids),
            tokens,
            self.cells.share(sequence.leaf, sequence.length),
            length=sequence.length,
            first=sequence.first,
            is_prefix=True,
            realm=sequence.realm,
            reuse_class=sequence.reuse_class,
            idle_since_row=self._rows,
        )
        self._cached[prefix.id] = prefix
        self._search.insert(prefix)
        self._operations.append(Share(sequence.id, prefix.id, prefix.length))

    def _can_adopt(self, match: Match) -> bool:
        """Whether an idle source matches as a whole: then it continues as the new sequence."""
        source = match.source
        return source.id in self._cached and match.length == source.length and not source.is_prefix

    def _adopt(
        self,
        sequence: PooledSequence,
        tokens: list[int],
        *,
        is_shareable: bool,
        reuse_class: ReuseClass,
    ) -> PooledSequence:
        self._busy[sequence.id] = self._cached.pop(sequence.id)
        sequence.tokens = tokens
        sequence.is_shareable = is_shareable
        sequence.reuse_class = reuse_class
        if not is_shareable:
            self._search.remove(sequence)
        return sequence

    def _begin_with(self, sequence: PooledSequence, match: Match) -> None:
        empty = sequence.leaf
        if self.shares_cells:
            sequence.leaf = self.cells.share(match.source.leaf, match.length)
        else:
            sequence.leaf = self.cells.grow(self.cells.begin(), match.length)
        self.cells.release(empty)
        sequence.length = match.length
        sequence.first = match.source.first
        self._checkpoints.share(match.source, sequence)
        if match.checkpoint is not None:
            self._checkpoints.mark_used(match.checkpoint)
        state = match.checkpoint.state if match.checkpoint is not None else None
        self._operations.append(Share(match.source.id, sequence.id, match.length, state))
        if match.source.id in self._cached:
            self._cached.move_to_end(match.source.id)
            match.source.idle_since_row = self._rows

    def _without_last_id(self, match: Match | None) -> Match | None:
        """No match, and its source dropped, where that is the only sequence with an id to give."""
        if match is None or self._free_ids or self._can_adopt(match):
            return match
        if any(id_ != match.source.id for id_ in self._cached):
            return match
        self.drop(match.source)
        return None

    def _new_id(self, match: Match | None) -> int:
        """Take a free id; if there is none, drop the least recently used cached sequence.

        The source of the match is not dropped.
        """
        if not self._free_ids:
            source_id = match.source.id if match else None
            victim = next(other for id_, other in self._cached.items() if id_ != source_id)
            self.drop(victim)
        return heapq.heappop(self._free_ids)
