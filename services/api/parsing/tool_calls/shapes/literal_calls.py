"""Calls with values that are not JSON: Python's `f(a=1)` (LFM2) and Gemma's `call:f{a:1}`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

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
from services.api.parsing.tool_calls.shapes.answer_parser import Found, open_answer
from services.api.parsing.tool_calls.shapes.grammar import (
    GrammarPart,
    OptionalPart,
    build_grammar,
)
from services.api.parsing.tool_calls.shapes.literals import BARE_KEY, Syntax, copy_members
from services.api.parsing.tool_calls.shapes.plain_values import (
    check_key,
    describe_json,
    describe_plain,
    find_members,
)
from services.api.parsing.tool_calls.shapes.schema_types import find_types
from services.api.parsing.tool_calls.shapes.schema_types import quote as quote_text

_NAME = re.compile(r"[\w.:/-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralCalls:
    """A dialect of this shape: `opens prefix NAME brackets closes`."""

    name: str
    opens: str
    prefix: str = ""  # before the name
    brackets: tuple[str, str]  # around the arguments
    separator: str  # between a key and its value
    comma: str  # between two members
    is_list: bool = False  # calls are in `[…]`, with commas between them
    closes: str
    syntax: Syntax
    dropped: tuple[str, ...] = ()
    new_id: NewId = new_openai_id
    handles_reasoning: bool = False

    @property
    def trigger(self) -> str:
        """See `ToolDialect`."""
        return self.opens

    @property
    def markers(self) -> tuple[str, ...]:
        """See `MarkedCalls`."""
        return (self.opens,)

    @property
    def shapes_text(self) -> bool:
        """See `ToolDialect`."""
        return bool(self.dropped)

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        return open_answer(tools, self)

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`. The first parameter is always written."""
        list_opens, list_closes = ("[", "]") if self.is_list else ("", "")
        parts: list[GrammarPart] = [
            f"{self.opens}{list_opens}{self.prefix}{name}{self.brackets[0]}"
        ]
        comma = ""
        for key, value, is_required in find_members(schema):
            is_bare = BARE_KEY.fullmatch(key) is not None
            check_key(key, is_writable=is_bare or self.syntax.bare_keys)
            written = key if is_bare else quote_text(key)
            member: list[GrammarPart] = [f"{comma}{written}{self.separator}"]
            quote = self.syntax.quotes[0]
            if not self.syntax.escapes and find_types(value, schema) == {"string"}:
                member += [quote, *describe_plain(value, schema, quote)[0]]
            else:
                member.append(describe_json(value, schema))
            can_be_left_out = comma and not is_required
            parts += [OptionalPart(tuple(member))] if can_be_left_out else member
            comma = self.comma
        parts.append(f"{self.brackets[1]}{list_closes}{self.closes}")
        return build_grammar(name, parts, special_tokens)

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """See `MarkedCalls`."""
        yield from source.spaces()
        is_in_list = self.is_list and (yield from source.literal("["))
        while (yield from self._read_call(source, writer)):
            source.hold()
            yield from source.spaces()
            if is_in_list and (yield from source.literal("]")):
                is_in_list = False
                yield from source.spaces()
            if (yield from source.literal(self.closes)):
                source.release()
                return
            if not is_in_list or not (yield from source.literal(",")):
                return
            yield from source.spaces()

    def _read_call(self, source: TextSource, writer: CallWriter) -> Steps[bool]:
        """Read one call; whether it was whole."""
        yield from source.spaces()
        if not (yield from source.literal(self.prefix)):
            return False
        name = yield from source.peek_match(_NAME, MAX_NAME)
        if not writer.knows(name):
            return False
        source.take(len(name))
        if not (yield from source.literal(self.brackets[0])):
            return False
        source.release()
        writer.start(name)
        is_whole = yield from copy_members(
            source, writer.arguments, self.syntax, self.brackets[1], self.separator
        )
        if is_whole:
            writer.end()
        return is_whole
