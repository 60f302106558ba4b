"""Find the sequence that shares the longest prefix with a prompt, in a tree over blocks of tokens.

    root ──(32 tokens)── node ──(32 tokens)── node
                          │ {3, 7, 9}          │ {7}      sequences that hold all blocks up to here

A sequence is inserted block by block while it grows. A search follows the blocks of the prompt down
the tree, and then compares single tokens with the sequences at the last node, so that a match may
end at any token. A holder is the id of a sequence, or of a running branch (`admission.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BLOCK = 32
_MAX_COMPARED = 64  # sequences compared token by token at the end of a search


@dataclass(slots=True, eq=False)
class _Node:
    parent: _Node | None = None
    key: tuple[int, ...] = ()
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)
    holders: dict[int, None] = field(default_factory=dict)  # used as an ordered set


class PrefixTree:
    """Which holder has which tokens."""

    def __init__(self, read_tokens: Callable[[int, int, int], Sequence[int]]) -> None:
        """`read_tokens(holder, start, end)` returns the tokens of a holder in that range."""
        self._read_tokens = read_tokens
        self._root = _Node()
        self._paths: dict[int, list[_Node]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether it has no holders."""
        return not self._paths

    def insert(self, holder: int, tokens: Sequence[int], length: int) -> None:
        """Set what a holder has to the first `length` of these tokens, which extend what it had."""
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

    def remove(self, holder: int) -> None:
        """Forget a holder. An unknown one is fine."""
        for node in reversed(self._paths.pop(holder, [])):
            _leave(node, holder)

    def find(
        self, tokens: Sequence[int], accepts: Callable[[int, int], bool] | None = None
    ) -> tuple[int, int] | None:
        """Find the holder with the longest prefix of `tokens`: the holder, and the prefix's length.

        Returns None where there is none. Of equally long ones, the holder that was inserted last.
        Only matches for which `accepts(holder, length)` is true are considered.
        """
        node: _Node | None = self._root
        path: list[_Node] = []
        while node is not None:
            path.append(node)
            start = (len(path) - 1) * BLOCK
            node = node.children.get(tuple(tokens[start : start + BLOCK]))
        for depth in range(len(path) - 1, -1, -1):
            found = self._find_longest(path[depth], depth * BLOCK, tokens, accepts)
            if found is not None:
                return found if found[1] > 0 else None
        return None

    def _find_longest(
        self,
        node: _Node,
        start: int,
        tokens: Sequence[int],
        accepts: Callable[[int, int], bool] | None,
    ) -> tuple[int, int] | None:
        best: tuple[int, int] | None = None
        compared = 0
        wanted = tokens[start : start + BLOCK]
        for holder in reversed(node.holders):
            theirs = self._read_tokens(holder, start, start + BLOCK)
            length = start + _count_common(wanted, theirs)
            if accepts is not None and not accepts(holder, length):
                continue
            if best is None or length > best[1]:
                best = holder, length
            compared += 1
            if compared == _MAX_COMPARED or length == start + len(wanted):
                break
        return best


class PrefixForest:
    """One tree per realm: what one realm computed is never found in another."""

    def __init__(self, read_tokens: Callable[[int, int, int], Sequence[int]]) -> None:
        """`read_tokens` as for PrefixTree; a holder belongs to one realm only."""
        self._read_tokens = read_tokens
        self._trees: dict[str, PrefixTree] = {}

    def insert(self, realm: str, holder: int, tokens: Sequence[int], length: int) -> None:
        """See PrefixTree.insert."""
        tree = self._trees.get(realm)
        if tree is None:
            tree = self._trees[realm] = PrefixTree(self._read_tokens)
        tree.insert(holder, tokens, length)

    def remove(self, realm: str, holder: int) -> None:
        """See PrefixTree.remove. A realm without holders takes no memory."""
        tree = self._trees.get(realm)
        if tree is not None:
            tree.remove(holder)
            if tree.is_empty:
                del self._trees[realm]

    def find(
        self,
        realm: str,
        tokens: Sequence[int],
        accepts: Callable[[int, int], bool] | None = None,
    ) -> tuple[int, int] | None:
        """See PrefixTree.find."""
        tree = self._trees.get(realm)
        return tree.find(tokens, accepts) if tree is not None else None


def _count_common(one: Sequence[int], other: Sequence[int]) -> int:
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
