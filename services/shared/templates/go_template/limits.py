"""What one render may take: steps, depth, and characters made.

The limits of the process (`renderer_main.py`) hold as well; these end a render in order, with a
message, and on macOS they are the only limit of memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.shared.templates.go_template.errors import LimitExceeded

MAX_STEPS = 1_000_000  # nodes, operands and calls; a chat of 15 000 messages takes them
MAX_DEPTH = 24  # of `template` calls
# Of all texts that a render makes, the printed ones included. A prompt has 8 MiB at most, and a
# template makes of a text perhaps JSON, then a longer text, then the prompt.
MAX_CHARACTERS = 48 << 20


class Budget:
    """Counts what a render has taken. LimitExceeded: it is too much."""

    __slots__ = ("characters", "steps")

    def __init__(self) -> None:
        self.steps = 0
        self.characters = 0

    def step(self, count: int = 1) -> None:
        """Take steps."""
        self.steps += count
        if self.steps > MAX_STEPS:
            raise LimitExceeded("it takes too many steps")

    def make(self, characters: int) -> None:
        """Make a text of so many characters, before it is made where that is possible."""
        self.characters += characters
        if self.characters > MAX_CHARACTERS:
            raise LimitExceeded("it makes too much text")

    def join(self, parts: Iterable[str]) -> str:
        """The parts as one text, which is only made if it is not too long."""
        kept = []
        for part in parts:
            self.make(len(part))
            kept.append(part)
        return "".join(kept)
