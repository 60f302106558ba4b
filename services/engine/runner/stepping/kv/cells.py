"""Books of the unified memory: which cells are shared by which sequences, and how many are taken.

Sequences that share a prefix form a tree of runs, each run a stretch of cells with consecutive
positions:

        run [0, 900)  ── run [900, 1000)   sequence 1
             └────────── run [900, 1400)   sequence 2, shared 1's first 900

A sequence is known by its leaf. `refs` counts children and sequences that end in a run; a run
without any gives its cells back. Splitting a run keeps all leaves valid, so sharing is O(depth).
"""

from __future__ import annotations

from collections.abc import Iterable


class Run:
    """Cells of positions [start, end), held together. Only `Cells` changes it."""

    __slots__ = ("end", "parent", "refs", "start")

    def __init__(self, parent: Run | None, start: int, end: int) -> None:
        self.parent = parent
        self.start = start
        self.end = end
        self.refs = 1


class Cells:
    """How many of `capacity` cells are used."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._root = Run(None, 0, 0)

    @property
    def free(self) -> int:
        """Cells nobody holds."""
        return self.capacity - self.used

    def begin(self) -> Run:
        """The leaf of a new, empty sequence."""
        self._root.refs += 1
        return self._root

    def grow(self, leaf: Run, count: int) -> Run:
        """Take `count` more cells at the end of a sequence; its new leaf."""
        self.used += count
        if leaf.refs == 1 and leaf is not self._root:
            leaf.end += count
            return leaf
        return Run(leaf, leaf.end, leaf.end + count)  # the sequence's ref on leaf is now the run's

    def share(self, leaf: Run, end: int) -> Run:
        """The leaf of a new sequence with the first `end` cells of this one."""
        run = leaf
        while run.start >= end and run.parent is not None:
            run = run.parent
        if run.end > end:
            run = self._split(run, end)
        run.refs += 1
        return run

    def cut(self, leaf: Run, end: int) -> Run:
        """Keep a sequence's first `end` cells; its new leaf."""
        if leaf.refs == 1 and leaf.start < end <= leaf.end:
            self.used -= leaf.end - end
            leaf.end = end
            return leaf
        shorter = self.share(leaf, end)
        self.release(leaf)
        return shorter

    def release(self, leaf: Run) -> None:
        """The sequence is gone; cells nobody else holds are free."""
        run: Run | None = leaf
        while run is not None:
            run.refs -= 1
            if run.refs > 0:
                return
            self.used -= run.end - run.start
            run = run.parent

    def held_by(self, leaves: Iterable[Run]) -> int:
        """Cells that at least one of these sequences holds."""
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
        """Cut a run in two; the upper half is new, so that leaves stay what they are."""
        upper = Run(run.parent, run.start, at)
        run.parent = upper
        run.start = at
        return upper
