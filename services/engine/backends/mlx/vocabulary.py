"""Convert text to tokens and back with the tokenizer.json of a folder.

    byte level      each character of a token stands for one byte (GPT-2's table)
    byte fallback   tokens are text, "▁" is a space, and "<0x0A>" is a byte (SentencePiece)

The tokens are those of llama.cpp for the same model: added tokens that are not special are found in
any text, and special ones only where the text is not literal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.engine.backends.mlx.folder import read_json
from services.engine.backends.text_pieces import join_plain
from services.engine.core import TextPiece
from services.shared.errors import ModelLoadFailed

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


class MlxVocabulary:
    """The tokens of one model. Immutable, so any thread may use it."""

    native = None
    infill_tokens = None  # tokenizer.json does not name them

    def __init__(self, folder: Path, *, size: int, end_tokens: Collection[int]) -> None:
        """`size` is the width of the model's logits. Raises ModelLoadFailed."""
        self.size = size
        self.end_tokens = tuple(sorted(token for token in end_tokens if 0 <= token < size))
        # One reads control tokens in a text, the other takes them as text: a flag of the tokenizer
        # would be shared by all threads.
        self._plain = _open_tokenizer(folder)
        self._literal = _open_tokenizer(folder)
        self._literal.encode_special_tokens = True
        self._pieces = _build_pieces(self._plain, read_json(folder, "tokenizer.json") or {}, size)
        added = self._plain.get_added_tokens_decoder()
        special = {token for token, entry in added.items() if entry.special and token < size}
        empty = {token for token, piece in enumerate(self._pieces) if not piece}
        self.control_tokens = tuple(sorted(special | empty))
        self._end_pieces = {token: self._pieces[token] for token in self.end_tokens}
        for token in self.end_tokens:
            self._pieces[token] = b""

    def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> list[int]:
        """See Vocabulary.tokenize. Adjacent plain pieces are one text; literal ones are not."""
        ids: list[int] = []
        for text, is_literal in join_plain(pieces):
            tokenizer = self._literal if is_literal else self._plain
            encoded = tokenizer.encode(text, add_special_tokens=add_special and not ids)
            ids += encoded.ids
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes of a token, including the text of control tokens; empty for end tokens."""
        return self._pieces[token]

    def read_piece(self, token: int) -> bytes:
        """The bytes of any token, also of an end token."""
        return self._end_pieces.get(token, self._pieces[token])


def _open_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exceptions
        raise ModelLoadFailed("tokenizer.json is damaged, or of an unknown kind") from error


def _build_pieces(tokenizer: Any, source: Mapping[str, Any], size: int) -> list[bytes]:
    added = tokenizer.get_added_tokens_decoder()
    is_byte_level = "ByteLevel" in _list_types(source.get("decoder"))
    table = _build_byte_table()
    pieces = []
    for token in range(size):
        text = tokenizer.id_to_token(token)
        if text is None:  # the width of the logits is often rounded up
            pieces.append(b"")
        elif token in added:
            pieces.append(added[token].content.encode())
        elif is_byte_level:
            pieces.append(b"".join(table.get(char, char.encode()) for char in text))
        elif found := _BYTE_TOKEN.fullmatch(text):
            pieces.append(bytes([int(found[1], 16)]))
        else:
            pieces.append(text.replace(_SPACE, " ").encode())
    return pieces


def _list_types(decoder: Any) -> set[str]:
    """The types of a decoder and of those that it is made of."""
    if not isinstance(decoder, dict):
        return set()
    parts = decoder.get("decoders")
    nested = [_list_types(part) for part in parts] if isinstance(parts, list) else []
    return {str(decoder.get("type"))}.union(*nested)


def _build_byte_table() -> dict[str, bytes]:
    """The byte that each character stands for (GPT-2, `bytes_to_unicode`).

    Printable bytes stand for themselves; the others are the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)}
