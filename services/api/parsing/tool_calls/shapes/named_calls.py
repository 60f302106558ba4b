"""Calls that write the name between markers, and then the arguments as JSON."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from services.api.parsing.holdback import Markers
from services.api.parsing.json_copy import copy_json
from services.api.parsing.parts import OutputParser
from services.api.parsing.text_source import Steps, TextSource
from services.api.parsing.tool_calls.base import (
    MAX_NAME,
    CallWriter,
    NewId,
    Schema,
    Tools,
    new_openai_id,
)
from services.api.parsing.tool_calls.shapes.answer_parser import (
    AnswerParser,
    Found,
    read_answer,
    read_section,
)
from services.api.parsing.tool_calls.shapes.grammar import (
    GrammarPart,
    JsonPart,
    PatternPart,
    build_grammar,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCalls:
    """A dialect of this shape. `example` is a call with NAME, ARGUMENTS and perhaps {ID}.

    `header` matches what is between `opens` and `name_ends`, with a group `name` and perhaps `id`.
    """

    name: str
    example: str
    opens: str
    name_ends: str
    header: re.Pattern[str]
    fence: str = ""  # may be before the arguments
    closes: tuple[str, ...] = ()  # may follow the arguments, each once, in this order
    section: tuple[str, str] | None = None  # around all calls
    starts_open: bool = False  # the prompt ends with `opens`
    content_name: str = ""  # not a function: content follows
    dropped: tuple[str, ...] = ()
    id_pattern: str = "[a-zA-Z0-9]{9}"
    new_id: NewId = new_openai_id
    handles_reasoning: bool = False

    @property
    def trigger(self) -> str:
        """See `ToolDialect`."""
        if self.starts_open:
            return ""
        return self.section[0] if self.section else self.opens

    @property
    def markers(self) -> tuple[str, ...]:
        """See `MarkedCalls`."""
        return (self.opens, *(self.section[:1] if self.section else ()))

    @property
    def shapes_text(self) -> bool:
        """See `ToolDialect`."""
        return bool(self.dropped) or self.starts_open

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        source, writer = TextSource(), CallWriter(tools, self.new_id)
        return AnswerParser(source, writer, self._read(source, writer))

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`."""
        before, after = self.example.split("ARGUMENTS")
        before = before.replace("NAME", name)
        parts: list[GrammarPart] = [JsonPart(schema), after]
        before_id, has_id, after_id = before.partition("{ID}")
        start = [before_id, PatternPart(self.id_pattern), after_id] if has_id else [before]
        return build_grammar(name, [*start, *parts], special_tokens)

    def _read(self, source: TextSource, writer: CallWriter) -> Steps[None]:
        if self.starts_open:
            source.hold()
            yield from self.read_calls(source, writer, Found(self.opens, is_line_start=True))
            writer.is_in_call = False
            if source.is_holding:
                writer.content(source.release())
        yield from read_answer(source, writer, self)

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """See `MarkedCalls`."""
        ends = self.section[1] if self.section else ""
        return read_section(
            source, writer, found, self._read_call, opens=self.opens, section_ends=ends
        )

    def _read_call(self, source: TextSource, writer: CallWriter) -> Steps[bool]:
        """Read a call after `opens`; whether it was whole."""
        text, end = yield from source.peek_until(Markers([self.name_ends]), MAX_NAME)
        header = self.header.fullmatch(text)
        if header is None or not end:
            return False
        groups = header.groupdict("")
        if self.content_name and groups["name"] == self.content_name:
            source.take(len(text) + len(end))
            source.release()
            return False
        if not writer.knows(groups["name"]):
            return False
        source.take(len(text) + len(end))
        source.release()
        writer.start(groups["name"], groups.get("id", ""))
        return (yield from self._read_arguments(source, writer))

    def _read_arguments(self, source: TextSource, writer: CallWriter) -> Steps[bool]:
        yield from source.spaces()
        if self.fence and (yield from source.literal(self.fence)):
            yield from source.spaces()
        if (yield from source.need()) == "{":
            if not (yield from copy_json(source, writer.arguments)):
                return False
            writer.end()
            for text in self.closes:
                yield from source.spaces()
                yield from source.literal(text)
            return True
        if self.closes and (yield from source.literal(self.closes[-1])):
            writer.arguments("{}")
            writer.end()
            return True
        return False
