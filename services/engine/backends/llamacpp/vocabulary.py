"""Convert text to tokens and back with llama.cpp's own tokenizer.

A vocabulary does not change after loading, and llama.cpp reads it without locks, so any thread may
use it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.engine.backends.llamacpp.text_parts import PART_CHARS, SpecialTokens, cut_text
from services.engine.backends.text_pieces import join_plain
from services.engine.core import TextPiece
from services.shared.token_search import compile_search

_INT32 = ctypes.POINTER(ctypes.c_int32)
_PART = 1 << 16  # tokens


class LlamaVocabulary:
    """The tokens of one model. Valid while the model is loaded."""

    control_tokens = ()  # `native` has them

    def __init__(self, lib: ModuleType, handle: Any) -> None:
        self.native = handle
        self._lib = lib
        self._size = int(lib.llama_vocab_n_tokens(handle))
        self._ends = frozenset(
            token for token in range(self._size) if lib.llama_vocab_is_eog(handle, token)
        )
        self._end_tokens = tuple(sorted(self._ends))
        self._hidden = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN  # if literal
        self.infill_tokens = self._find_infill_tokens()
        self._pieces: list[bytes | None] = [None] * self._size

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self._size

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """All end-of-generation tokens, ascending."""
        return self._end_tokens

    def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> list[int]:
        """Tokenize the pieces; control text in a literal piece stays text.

        Adjacent plain pieces are joined first, because a boundary inside a text would change its
        tokens. Literal ones are not: llama.cpp finds user-defined tokens in any text, and the api
        cuts a literal text inside them. With a vocabulary that starts texts with a space (SPM), the
        second half starts with one.
        """
        ids: list[int] = []
        for text, is_literal in join_plain(pieces):
            ids += self._tokenize(text, add_special=add_special and not ids, parse=not is_literal)
        return ids

    def _tokenize(self, text: str, *, add_special: bool, parse: bool) -> list[int]:
        if len(text) <= 2 * PART_CHARS:
            return self._encode(text, add_special=add_special, parse=parse)
        tokens = self._special_tokens if parse else self._literal_tokens
        if tokens is None:
            return self._encode(text, add_special=add_special, parse=parse)
        ids: list[int] = []
        for part in cut_text(text, tokens):
            ids += self._encode(part, add_special=False, parse=parse)
        if not add_special:
            return ids
        added = self._encode("", add_special=True, parse=parse)
        begins = len(added) > 1 or added == [self._lib.llama_vocab_bos(self.native)]
        count = 1 if begins else 0
        return [*added[:count], *ids, *added[count:]]

    @cached_property
    def _special_tokens(self) -> SpecialTokens | None:
        """What llama.cpp cuts texts at; read when it is first needed."""
        return self._find_tokens(self._hidden | self._lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def _literal_tokens(self) -> SpecialTokens | None:
        """What it cuts literal texts at."""
        return self._find_tokens(self._lib.LLAMA_TOKEN_ATTR_USER_DEFINED, hidden=self._hidden)

    def _find_tokens(self, kinds: int, *, hidden: int = 0) -> SpecialTokens | None:
        found: dict[str, int] = {}
        for token in range(self._size):
            attributes = int(self._lib.llama_vocab_get_attr(self.native, token))
            if attributes & kinds and not attributes & hidden:
                text = self._lib.llama_vocab_get_text(self.native, token)
                found[bytes(text).decode("utf-8", "surrogateescape")] = attributes
        search = compile_search(found)
        if search is None:
            return None
        stripping = [t for t, a in found.items() if a & self._lib.LLAMA_TOKEN_ATTR_RSTRIP]
        return SpecialTokens(search, max(map(len, found)), frozenset(stripping))

    def piece(self, token: int) -> bytes:
        """The bytes of a token, including the text of control tokens; empty for end tokens."""
        known = self._pieces[token]
        if known is None:
            known = b"" if token in self._ends else self.read_piece(token)
            self._pieces[token] = known
        return known

    def read_piece(self, token: int) -> bytes:
        """See Vocabulary.read_piece: llama.cpp is asked."""
        size = 128
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.llama_token_to_piece(self.native, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _find_infill_tokens(self) -> tuple[int, int, int] | None:
        lib = self._lib
        functions = (lib.llama_vocab_fim_pre, lib.llama_vocab_fim_suf, lib.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(find(self.native)) for find in functions)
        return None if min(prefix, suffix, middle) < 0 else (prefix, suffix, middle)

    def _encode(self, text: str, *, add_special: bool, parse: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8  # a token is at least one byte; the rest for BOS and the like
        while True:
            ids = np.empty(room, np.int32)  # only the part that is written takes memory
            count = self._lib.llama_tokenize(
                self.native, raw, len(raw), ids.ctypes.data_as(_INT32), room, add_special, parse
            )
            if count >= 0:
                return _to_list(ids[:count])
            room = -count


def _to_list(ids: NDArray[np.int32]) -> list[int]:
    """Convert in parts, because a conversion holds the interpreter's lock: a part takes 1 ms."""
    converted: list[int] = []
    for start in range(0, len(ids), _PART):
        converted += ids[start : start + _PART].tolist()
    return converted
