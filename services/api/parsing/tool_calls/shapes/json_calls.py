"""Calls that are JSON objects with a name and arguments, alone or in a list, between markers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from services.api.parsing.json_copy import copy_json, copy_string, parse_json
from services.api.parsing.parts import OutputParser
from services.api.parsing.text_source import Steps, TextSource
from services.api.parsing.tool_calls.base import (
    CallWriter,
    NewId,
    Schema,
    Tools,
    new_openai_id,
)
from services.api.parsing.tool_calls.shapes.answer_parser import Found, open_answer
from services.api.parsing.tool_calls.shapes.grammar import (
    GrammarPart,
    JsonPart,
    build_grammar,
)

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters")
_ID = "id"  # Command-R's `tool_call_id` counts from 0 in every answer: that is none
_BARE_KEYS = frozenset({*_NAMES, *_ARGUMENTS, _ID, "type"})
_OBJECT = "{"
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCalls:
    """A dialect of this shape. `example` is a call with NAME and ARGUMENTS in their places."""

    name: str
    example: str
    opens: str
    closes: str = ""
    fence: str = ""  # may follow `opens`
    dropped: tuple[str, ...] = ()  # markers that only structure the answer
    is_bare: bool = False  # an object at the start of a line may be a call, too
    is_keyed: bool = False  # the object has one member: the name, with the arguments as its value
    new_id: NewId = new_openai_id
    handles_reasoning: bool = False

    @property
    def trigger(self) -> str:
        """See `ToolDialect`."""
        return self.example.partition("NAME")[0] if self.is_bare else self.opens

    @property
    def markers(self) -> tuple[str, ...]:
        """See `MarkedCalls`."""
        return tuple({self.opens: None, _OBJECT: None}) if self.is_bare else (self.opens,)

    @property
    def shapes_text(self) -> bool:
        """See `ToolDialect`."""
        return bool(self.dropped)

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        return open_answer(tools, self)

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`."""
        before, after = self.example.split("ARGUMENTS")
        parts: list[GrammarPart] = [before.replace("NAME", name), JsonPart(schema), after]
        return build_grammar(name, parts, special_tokens)

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """See `MarkedCalls`."""
        is_bare = found.marker == _OBJECT
        if is_bare and not found.is_line_start:
            return
        is_list = False
        if not is_bare:
            yield from source.spaces()
            yield from source.literal(self.fence)
            yield from source.spaces()
            is_list = yield from source.literal("[")
            yield from source.spaces()
        is_open = is_bare
        while is_open or (yield from source.literal(_OBJECT)):
            is_open = False
            if not (yield from self._read_call(source, writer, is_bare=is_bare)):
                return
            source.hold()
            yield from source.spaces()
            if (yield from self._read_end(source, is_list=is_list)):
                source.release()
                return
            yield from source.first_literal((",", ";"))
            yield from source.spaces()

    def _read_end(self, source: TextSource, *, is_list: bool) -> Steps[bool]:
        if not is_list:
            return bool(self.closes) and (yield from source.literal(self.closes))
        if not (yield from source.literal("]")):
            return False
        yield from source.spaces()
        yield from source.literal(self.closes)
        return True

    def _read_call(self, source: TextSource, writer: CallWriter, *, is_bare: bool) -> Steps[bool]:
        """Read the members of an object after its `{`; whether it was a whole call."""
        call = _Call(writer, is_bare=is_bare)
        while True:
            yield from source.spaces()
            key = yield from _read_string(source)
            yield from source.spaces()
            if key is None or not (yield from source.literal(":")):
                return False
            yield from source.spaces()
            if not (yield from self._read_member(source, call, key)):
                return False
            yield from source.spaces()
            if (yield from source.literal("}")):
                return call.end()
            if not (yield from source.literal(",")):
                return False

    def _read_member(self, source: TextSource, call: _Call, key: str) -> Steps[bool]:
        if self.is_keyed:
            is_first = not call.is_started and call.start(source, key)
            return is_first and (yield from call.read_arguments(source))
        if call.is_bare and not call.is_started and key not in _BARE_KEYS:
            return False
        if key in _ARGUMENTS and not call.has_arguments:
            return (yield from call.read_arguments(source))
        if not call.is_started and (yield from source.need()) == '"':
            text = yield from _read_string(source)
            if key == _ID and text is not None:
                call.id = text
            elif key in _NAMES:
                return text is not None and call.start(source, text)
            return text is not None
        return bool((yield from copy_json(source, lambda _: None)))


class _Call:
    """One call while its members are read, in any order."""

    def __init__(self, writer: CallWriter, *, is_bare: bool) -> None:
        self.id = ""
        self.is_bare = is_bare
        self.is_started = False
        self.has_arguments = False
        self._writer = writer
        self._waiting: list[str] = []  # arguments that came before the name

    def start(self, source: TextSource, name: str) -> bool:
        if self.is_started:
            return True
        if not self._writer.knows(name) or (self.is_bare and not self._writer.tools):
            return False
        source.release()
        self.is_started = True
        self._writer.start(name, self.id)
        for text in self._waiting:
            self._writer.arguments(text)
        return True

    def read_arguments(self, source: TextSource) -> Steps[bool]:
        """Read an object; a string that contains one; or null, for an object without members."""
        self.has_arguments = True
        char = yield from source.need()
        if char == "{":
            return bool((yield from copy_json(source, self._emit)))
        texts: list[str] = []
        kind = yield from copy_json(source, texts.append)
        text = {"null": "{}", "string": _parse_string("".join(texts))}.get(kind, "")
        kind, arguments = parse_json(text or "")
        if kind != "object":
            return False
        self._emit(arguments)
        return True

    def end(self) -> bool:
        if not self.is_started:
            return False
        if not self.has_arguments:
            self._emit("{}")
        self._writer.end()
        return True

    def _emit(self, text: str) -> None:
        if self.is_started:
            self._writer.arguments(text)
        else:
            self._waiting.append(text)


def _read_string(source: TextSource) -> Steps[str | None]:
    """Read a JSON string, which may be long; None if there is none."""
    texts: list[str] = []
    if (yield from source.need()) != '"' or not (yield from copy_string(source, texts.append)):
        return None
    return _parse_string("".join(texts))


def _parse_string(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    # An escape may stand for half of a surrogate pair, which cannot be sent.
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else None
