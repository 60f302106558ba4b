"""The texts of a prompt's pieces, as a tokenizer gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from services.engine.core import TextPiece


def join_plain(pieces: Iterable[TextPiece]) -> Iterator[tuple[str, bool]]:
    """The texts to tokenize, and whether they are literal. Adjacent plain pieces are one text."""
    for is_literal, group in groupby(pieces, key=lambda piece: piece.literal):
        if is_literal:
            yield from ((piece.text, True) for piece in group)
        else:
            yield "".join(piece.text for piece in group), False
