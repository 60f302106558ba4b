"""Build the tokenizers that grammars are compiled for, from the vocabulary of a model."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from services.engine.runner.requests.grammar_library import SPECIAL, GrammarTokenizer
from services.shared.errors import InvalidRequest
from services.shared.grammar_tokens import name_token

if TYPE_CHECKING:
    import llama_cpp

_MAX_PIECE_BYTES = 16 << 10
_MAX_FORCED_BYTES = 512  # of a text that must follow; only its next token counts
_MARKER = b"\x02"


def build_llamacpp_tokenizer(
    vocab: llama_cpp.llama_vocab_p, ends: Collection[int]
) -> GrammarTokenizer:
    """Build the tokenizer for a vocabulary of llama.cpp, which must outlive it.

    Takes about a second for 150k tokens, in which other threads continue. Raises InvalidRequest
    where the model has no end token, as does `build_tokenizer`.
    """
    _require_end(ends)
    pieces, special = _read_pieces(vocab)
    tokenize = _LlamaTokenize(vocab, pieces)
    return GrammarTokenizer(
        _mark_special(pieces, {*special, *ends}),
        ends=sorted(ends),
        tokenize=tokenize if tokenize.is_exact else None,
    )


class _LlamaTokenize:
    """Tokenizes a text within an answer, where llama.cpp would add a space or a begin token.

    So the text is tokenized behind a marker, a control character, whose tokens are removed. A
    word-piece vocabulary cannot spell one: `is_exact` is False.
    """

    def __init__(self, vocab: llama_cpp.llama_vocab_p, pieces: Sequence[bytes]) -> None:
        self._vocab = vocab
        self._marker = self._encode(_MARKER)
        self.is_exact = b"".join(pieces[token] for token in self._marker).endswith(_MARKER)

    def __call__(self, text: bytes) -> list[int]:
        tokens = self._encode(_MARKER + text[:_MAX_FORCED_BYTES])
        size = len(self._marker)
        # Without tokens, nothing is forced: where the marker has joined with the text.
        return tokens[size:] if tokens[:size] == self._marker else []

    def _encode(self, text: bytes) -> list[int]:
        import llama_cpp

        room = len(text) + 8
        tokens = (ctypes.c_int32 * room)()
        count = llama_cpp.llama_tokenize(self._vocab, text, len(text), tokens, room, False, False)
        return tokens[: max(count, 0)]


def _read_pieces(vocab: llama_cpp.llama_vocab_p) -> tuple[list[bytes], set[int]]:
    """The bytes of every token, and the tokens that match no text."""
    import llama_cpp

    buffer = ctypes.create_string_buffer(_MAX_PIECE_BYTES)
    pieces: list[bytes] = []
    special: set[int] = set()
    for token in range(llama_cpp.llama_vocab_n_tokens(vocab)):
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        piece = ctypes.string_at(buffer, max(length, 0))
        attributes = llama_cpp.llama_vocab_get_attr(vocab, token)
        if attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL or (
            attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
            and piece.startswith(b"<")
            and piece.endswith(b">")
        ):
            special.add(token)
        pieces.append(piece)
    return pieces, special


def build_tokenizer(
    pieces: Sequence[bytes], *, ends: Collection[int], special: Collection[int] = ()
) -> GrammarTokenizer:
    """Build the tokenizer for a vocabulary given as bytes by token id.

    `special` tokens match no text. The usual tokens of a text are not known, so masks permit all.
    """
    _require_end(ends)
    return GrammarTokenizer(_mark_special(pieces, {*special, *ends}), ends=sorted(ends))


def _mark_special(pieces: Sequence[bytes], special: Collection[int]) -> list[bytes]:
    """The pieces, with the names of the special tokens in a grammar instead of their texts."""
    marked = list(pieces)
    for token in special:
        if token < len(marked):
            name = name_token(marked[token].decode(errors="replace")) if marked[token] else ""
            marked[token] = SPECIAL + name.encode()
    return marked


def _require_end(ends: Collection[int]) -> None:
    if not ends:
        raise InvalidRequest("this model has no end token, so its answers cannot be constrained")
