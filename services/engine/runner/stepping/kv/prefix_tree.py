"""Find the sequence that has computed most of a prompt already: a tree over blocks of tokens.

    root ──(32 tokens)── node ──(32 tokens)── node
                          │ {3, 7, 9}          │ {7}      sequences that hold the way here

A sequence is entered block by block as it grows. A search follows the prompt's blocks down and then
compares single tokens with the sequences at the last node, so that matches end at any token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BLOCK = 32
_MOST_COMPARED = 64  # sequences compared token by token at the end of a search


@dataclass(slots=True, eq=False)
class _Node:
    parent: _Node | None = None
    key: tuple[int, ...] = ()
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    holders: dict[int, None] = field(default_factory=dict)  # a set that keeps its order


class PrefixTree:
    """Which ids hold which tokens."""

    def __init__(self, slice_of: Callable[[int, int, int], Sequence[int]]) -> None:
        """`slice_of(holder, start, end)` gives those of a holder's tokens that exist."""
        self._slice_of = slice_of
        self._root = _Node()
        self._paths: dict[int, list[_Node]] = {}

    def enter(self, holder: int, tokens: Sequence[int], length: int) -> None:
        """The holder has `length` of these tokens now; what it had before is their beginning."""
        path = self._paths.get(holder)
        if path is None:
            path = self._paths[holder] = [self._root]
            self._root.holders[holder] = None
        while len(path) * BLOCK <= length:
            start = (len(path) - 1) * BLOCK
            key = tuple(tokens[start : start + BLOCK])
            parent = path[-1]
            node = parent.children.get(key)
            if node is None:
                node = parent.children[key] = _Node(parent, key)
            node.holders[holder] = None
            path.append(node)

    def cut(self, holder: int, length: int) -> None:
        """The holder has only `length` tokens left."""
        path = self._paths.get(holder)
        while path is not None and len(path) - 1 > length // BLOCK:
            _leave(path.pop(), holder)

    def remove(self, holder: int) -> None:
        """Forget a holder; one that is not there is fine."""
        for node in reversed(self._paths.pop(holder, [])):
            _leave(node, holder)

    def find(
        self, tokens: Sequence[int], accepts: Callable[[int], bool] | None = None
    ) -> tuple[int, int] | None:
        """The holder of the longest beginning of `tokens` and its length; None without any.

        Of equals, the one entered last. `accepts` leaves holders out.
        """
        node: _Node | None = self._root
        way: list[_Node] = []
        while node is not None:
            way.append(node)
            start = (len(way) - 1) * BLOCK
            node = node.children.get(tuple(tokens[start : start + BLOCK]))
        for depth in range(len(way) - 1, -1, -1):
            found = self._longest(way[depth], depth * BLOCK, tokens, accepts)
            if found is not None:
                return found if found[1] > 0 else None
        return None

    def _longest(
        self,
        node: _Node,
        start: int,
        tokens: Sequence[int],
        accepts: Callable[[int], bool] | None,
    ) -> tuple[int, int] | None:
        best: tuple[int, int] | None = None
        compared = 0
        wanted = tokens[start : start + BLOCK]
        for holder in reversed(node.holders):
            if accepts is not None and not accepts(holder):
                continue
            theirs = self._slice_of(holder, start, start + BLOCK)
            length = start + _common(wanted, theirs)
            if best is None or length > best[1]:
                best = holder, length
            compared += 1
            if compared == _MOST_COMPARED or length == start + len(wanted):
                break
        return best


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _leave(node: _Node, holder: int) -> None:
    node.holders.pop(holder, None)
    if not node.holders and node.parent is not None:
        del node.parent.children[node.key]
