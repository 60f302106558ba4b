"""What a model's text consists of, and the contract of everything that takes it apart.

A parser sees the text of one answer, without its number, tokens or log-probabilities. The events of
the pipeline have those (services/api/generation/answers/events.py), which answer_reader.py makes of
parts. Structs and not dataclasses: a part is made for nearly every token.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """More of what the model thinks before it answers."""

    text: str


class Content(msgspec.Struct, frozen=True, gc=False):
    """More of the answer itself."""

    text: str


class CallStarted(msgspec.Struct, frozen=True, gc=False):
    """Tool call `index`, from 0, has begun; its name is complete."""

    index: int
    id: str
    name: str


class CallArguments(msgspec.Struct, frozen=True, gc=False):
    """More of the arguments of a call; the fragments of one call make one JSON object."""

    index: int
    fragment: str


class CallEnded(msgspec.Struct, frozen=True, gc=False):
    """The call is complete. A call without this was cut off, and its arguments may be half."""

    index: int


Part = Reasoning | Content | CallStarted | CallArguments | CallEnded


class OutputParser(Protocol):
    """Takes the text of one answer apart. Never raises, whatever the text."""

    def feed(self, text: str) -> list[Part]:
        """The parts that more text has decided; what could still become a marker is held back."""

    def finish(self) -> list[Part]:
        """The parts that were held back, now that the text is over."""
