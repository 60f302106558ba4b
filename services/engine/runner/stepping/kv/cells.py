"""Count the cells of the unified KV memory, and track which sequences share them.

Sequences that share a prefix form a tree of runs. A run is a group of cells with consecutive
positions:

        run [0, 900)  ── run [900, 1000)   sequence 1
             └────────── run [900, 1400)   sequence 2 shares the first 900 of 1

A sequence is identified by its leaf, the run in which it ends. `refs` counts the children of a run
and the sequences that end in it; a run without any frees its cells. Splitting a run keeps all
leaves valid, so sharing is O(depth).
"""

from __future__ import annotations

from collections.abc import Iterable


class Run:
    """The cells of positions [start, end), which share their owners. Only `Cells` changes a run."""

    __slots__ = ("end", "parent", "refs", "start")

    def __init__(self, parent: Run | None, start: int, end: int) -> None:
        self.parent = parent
        self.start = start
        self.end = end
        self.refs = 1


class Cells:
    """All cells of a context: `used` of `capacity`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._root = Run(None, 0, 0)

    @property
    def free(self) -> int:
        """Cells that no sequence holds."""
        return self.capacity - self.used

    def begin(self) -> Run:
        """Begin a new, empty sequence; returns its leaf."""
        self._root.refs += 1
        return self._root

    def grow(self, leaf: Run, count: int) -> Run:
        """Take `count` more cells at the end of a sequence; returns its new leaf."""
        self.used += count
        if leaf.refs == 1 and leaf is not self._root:
            leaf.end += count
            return leaf
        # The new run takes over the sequence's reference to the leaf.
        return Run(leaf, leaf.end, leaf.end + count)

    def share(self, leaf: Run, end: int) -> Run:
        """Begin a sequence with the first `end` cells of this one; returns its leaf."""
        run = leaf
        while run.start >= end and run.parent is not None:
            run = run.parent
        if run.end > end:
            run = self._split(run, end)
        run.refs += 1
        return run

    def release(self, leaf: Run) -> None:
        """Remove a sequence; the cells that no other sequence holds become free."""
        run: Run | None = leaf
        while run is not None:
            run.refs -= 1
            if run.refs > 0:
                return
            self.used -= run.end - run.start
            run = run.parent

    def count_held(self, leaves: Iterable[Run]) -> int:
        """Count the cells that at least one of these sequences holds."""
        seen: set[Run] = set()
        total = 0
        for leaf in leaves:
            run: Run | None = leaf
            while run is not None and run not in seen:
                seen.add(run)
                total += run.end - run.start
                run = run.parent
        return total

    def _split(self, run: Run, at: int) -> Run:
        """Split a run in two; the part nearer the root is new, so that leaves stay valid."""
        upper = Run(run.parent, run.start, at)
        run.parent = upper
        run.start = at
        return upper
