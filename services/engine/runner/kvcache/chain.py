"""The tokens of one sequence as a chain of blocks, each named by all that is before it.

    node 0      the identity (identity.py)
    node k + 1  SHA-256(node k, the 256 tokens of block k as int32, little-endian)

A pure structure: no key, file or thread.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.engine.core import CacheKind
from services.engine.runner.kvcache.keys import DerivedKey

BLOCK_TOKENS = 256
_TOKEN_BYTES = 4
_BLOCK_BYTES = BLOCK_TOKENS * _TOKEN_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one entry holds of a chain: the state of the tokens [start, end)."""

    kind: CacheKind
    start: int
    end: int
    node: bytes  # by which it is found
    content: (
        bytes  # names all tokens up to its end; the node itself, but for the tail of a snapshot
    )
    binding: bytes  # what is authenticated beside the header

    @property
    def tokens(self) -> int:
        """How many tokens it covers."""
        return self.end - self.start


class Chain:
    """The tokens of one sequence and the hashes of their blocks. One thread at a time."""

    def __init__(
        self, identity: bytes, keys: tuple[DerivedKey, ...], tokens: Sequence[int]
    ) -> None:
        self.keys = keys  # newest first
        self.decisions: dict[bytes, bool] = {}  # by content: whether the policy wants it stored
        self.is_always_stored = False  # whatever the policy, unless nothing is written at all
        self._identity = identity
        self._tokens = bytearray()
        self._nodes = [identity]
        self.extend(tokens)

    @property
    def length(self) -> int:
        """The number of tokens."""
        return len(self._tokens) // _TOKEN_BYTES

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens, as those of an answer."""
        self._tokens += np.asarray(tokens, "<i4").tobytes()
        for start in range(
            (len(self._nodes) - 1) * _BLOCK_BYTES,
            len(self._tokens) - _BLOCK_BYTES + 1,
            _BLOCK_BYTES,
        ):
            block = self._tokens[start : start + _BLOCK_BYTES]
            self._nodes.append(hashlib.sha256(self._nodes[-1] + block).digest())

    def copy(self) -> Chain:
        """A chain that can be extended by itself, as for the second answer to a prompt."""
        copy = Chain(self._identity, self.keys, ())
        copy._tokens += self._tokens
        copy._nodes = list(self._nodes)
        copy.decisions = dict(self.decisions)
        copy.is_always_stored = self.is_always_stored
        return copy

    def get_block(self, index: int) -> Part:
        """Block `index`, all of whose tokens are in the chain."""
        start = index * BLOCK_TOKENS
        node = self._nodes[index + 1]
        binding = self._bind(self._nodes[index], node, index)
        return Part("block", start, start + BLOCK_TOKENS, node, node, binding)

    def get_node(self, index: int) -> bytes:
        """The hash of the first `index` blocks."""
        return self._nodes[index]

    def get_snapshot(self, length: int) -> Part:
        """The first `length` tokens as a whole."""
        if not 0 <= length <= self.length:
            raise ValueError(f"{length} tokens of a chain of {self.length}")
        index = length // BLOCK_TOKENS
        node, parent = self._nodes[index], self._nodes[max(index - 1, 0)]
        tail = self._tokens[index * _BLOCK_BYTES : length * _TOKEN_BYTES]
        content = hashlib.sha256(node + tail).digest()
        return Part("snapshot", 0, length, node, content, self._bind(parent, content, index))

    def _bind(self, parent: bytes, content: bytes, index: int) -> bytes:
        return self._identity + parent + content + struct.pack("<I", index)
