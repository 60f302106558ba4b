"""The vocabulary of the fake backend: bytes, an end token and a control token."""

from __future__ import annotations

from collections.abc import Sequence

from services.engine.core import TextPiece

END = 256
CONTROL = 257
VOCAB_SIZE = 258
_CONTROL_TEXT = "<|turn|>"
_END_TEXT = "<|end|>"


class FakeVocabulary:
    """One token per byte, an end token and a control token."""

    size = VOCAB_SIZE
    end_tokens = (END,)
    native = None
    control_tokens = ()
    infill_tokens = None

    def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> list[int]:
        """One token per byte; `add_special` and non-literal `<|turn|>` give the control token."""
        ids = [CONTROL] if add_special else []
        for piece in pieces:
            parts = [piece.text] if piece.literal else piece.text.split(_CONTROL_TEXT)
            for index, part in enumerate(parts):
                ids += ([CONTROL] if index else []) + list(part.encode())
        return ids

    def piece(self, token: int) -> bytes:
        """The byte, or the text of the control token."""
        if token == END:
            return b""
        return self.read_piece(token)

    def read_piece(self, token: int) -> bytes:
        """The byte, or the text of the control or end token."""
        texts = {CONTROL: _CONTROL_TEXT.encode(), END: _END_TEXT.encode()}
        return texts[token] if token in texts else bytes([token])
