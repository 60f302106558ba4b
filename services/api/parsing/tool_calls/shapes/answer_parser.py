"""Reads an answer: content up to a marker, then the calls that a dialect finds there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from services.api.parsing.holdback import SPACES, Markers, count_held_spaces
from services.api.parsing.parts import Content, Part
from services.api.parsing.text_source import Steps, TextSource
from services.api.parsing.tool_calls.base import CallWriter, NewId, Tools


@dataclass(frozen=True, slots=True)
class Found:
    """A marker that may begin a call."""

    marker: str
    is_line_start: bool  # only whitespace is before it in its line


class MarkedCalls(Protocol):
    """A dialect whose calls begin with markers, anywhere in the answer."""

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that may begin a call."""

    @property
    def dropped(self) -> tuple[str, ...]:
        """The texts that only structure an answer."""

    @property
    def new_id(self) -> NewId:
        """Makes ids up."""

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """Read the calls that begin at a marker.

        The source holds what is read. `release` it where a call starts; what is still held at the
        end becomes content.
        """


class AnswerParser:
    """Runs a reader over the deltas of one answer. An `OutputParser`."""

    def __init__(self, source: TextSource, writer: CallWriter, steps: Steps[None]) -> None:
        self.source = source
        self._writer = writer
        self._steps: Generator[None, None, None] = steps

    def feed(self, text: str) -> list[Part]:
        """The parts that more text has decided."""
        self.source.push(text)
        next(self._steps, None)
        return self._writer.take()

    def finish(self) -> list[Part]:
        """The parts that were held back.

        Where the text ends within a call, what is left is half of a literal, a tag or the like. It
        is dropped: it is no content.
        """
        is_in_call = self._writer.is_in_call
        self.source.end()
        next(self._steps, None)
        parts = self._writer.take()
        return [p for p in parts if not isinstance(p, Content)] if is_in_call else parts


def open_answer(tools: Tools, *dialects: MarkedCalls) -> AnswerParser:
    """A parser of calls of these dialects; the first one owns a marker that several have."""
    source, writer = TextSource(), CallWriter(tools, dialects[0].new_id)
    return AnswerParser(source, writer, read_answer(source, writer, *dialects))


def read_answer(source: TextSource, writer: CallWriter, *dialects: MarkedCalls) -> Steps[None]:
    """Read an answer to its end."""
    dialect_of = {text: dialect for dialect in reversed(dialects) for text in dialect.markers}
    dropped = frozenset(text for dialect in dialects for text in dialect.dropped)
    markers = Markers([*dialect_of, *dropped])
    spaces = ""
    while True:
        text, marker = yield from source.piece(markers)
        spaces = _write_content(writer, spaces + text)
        if marker in dropped:
            continue
        if not marker:
            if not text:
                writer.content(spaces)
                return
            continue
        found = Found(marker, is_line_start=writer.is_at_start or "\n" in spaces)
        source.hold(spaces + marker)
        spaces = ""
        calls = writer.calls
        yield from dialect_of[marker].read_calls(source, writer, found)
        writer.is_in_call = False
        if source.is_holding:
            held = source.release()
            spaces = _write_content(writer, held.lstrip(SPACES) if writer.calls > calls else held)
        else:
            yield from source.spaces()


def read_section(
    source: TextSource,
    writer: CallWriter,
    found: Found,
    read_call: Callable[[TextSource, CallWriter], Steps[bool]],
    *,
    opens: str,
    section_ends: str,
) -> Steps[None]:
    """Read calls that follow each other, alone or in a section.

    `read_call` reads one after its `opens`, and returns whether it was whole. `section_ends` is
    empty where there are no sections.
    """
    if found.marker != opens:
        yield from source.spaces()
        if not (yield from source.literal(opens)):
            return
    while (yield from read_call(source, writer)):
        source.hold()
        yield from source.spaces()
        if section_ends and (yield from source.literal(section_ends)):
            source.release()
            return
        if not (yield from source.literal(opens)):
            return


def _write_content(writer: CallWriter, text: str) -> str:
    """Write the text without the whitespace at its end, and return that: a call may follow."""
    size = count_held_spaces(text)
    writer.content(text[: len(text) - size])
    return text[len(text) - size :]
