"""Find the tokens at which the messages of a prompt end, from where they end in its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from services.engine.backends.base import Vocabulary
from services.engine.core import TextPiece


def find_cut_tokens(
    vocabulary: Vocabulary,
    pieces: Sequence[TextPiece],
    cuts: Sequence[int],
    prompt: Sequence[int],
    *,
    add_special: bool,
) -> tuple[int, ...]:
    """The lengths of `prompt`, the tokens of the pieces, at which a text of so many characters ends.

    One token less, as the last one may be joined with what follows in another prompt. What
    tokenises to other tokens with the rest than without it ends where both begin to differ.
    """
    lengths = []
    for cut in cuts:
        beginning = tuple(_take(pieces, cut))
        tokens = vocabulary.tokenize(beginning, add_special=add_special)
        lengths.append(max(_count_common(tokens, prompt) - 1, 0))
    return tuple(lengths)


def _take(pieces: Sequence[TextPiece], length: int) -> Iterator[TextPiece]:
    """The first so many characters of the pieces."""
    for piece in pieces:
        if length <= 0:
            return
        yield piece if len(piece.text) <= length else TextPiece(piece.text[:length], piece.literal)
        length -= len(piece.text)


def _count_common(one: Sequence[int], other: Sequence[int]) -> int:
    if one == other[: len(one)]:
        return len(one)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
