"""MiniMax M3: every parameter is a tag of its own name, and objects and arrays are nested tags."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from services.api.parsing.holdback import Markers
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
from services.api.parsing.tool_calls.shapes.answer_parser import Found, open_answer, read_section
from services.api.parsing.tool_calls.shapes.grammar import (
    GrammarPart,
    OptionalPart,
    build_grammar,
)
from services.api.parsing.tool_calls.shapes.plain_values import (
    check_key,
    describe_plain,
    find_members,
)
from services.api.parsing.tool_calls.shapes.schema_types import (
    find_items,
    find_property,
    find_types,
    quote,
    text_to_json,
)

_MARK = "]<]minimax[>["
_OPENS, _CLOSES = f"{_MARK}<tool_call>", f"{_MARK}</tool_call>"
_INVOKE, _INVOKE_ENDS = f'{_MARK}<invoke name="', f"{_MARK}</invoke>"
_MAX_DEPTH = 32
_TAG = re.compile(r"[^<>\[\]\s]+")
_ITEM = "item"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCalls:
    """The dialect of MiniMax M3."""

    name: str = "minimax-m3"
    trigger: str = _OPENS
    handles_reasoning: bool = False
    shapes_text: bool = False
    markers: tuple[str, ...] = (_OPENS, _INVOKE)
    dropped: tuple[str, ...] = ()
    new_id: NewId = new_openai_id

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        return open_answer(tools, self)

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`. Objects and arrays are JSON, which the parser reads as well."""
        parts: list[GrammarPart] = [f'{_OPENS}\n{_INVOKE}{name}">']
        for key, value, is_required in find_members(schema):
            check_key(key, is_writable=_TAG.fullmatch(key) is not None)
            written, _ = describe_plain(value, schema, _MARK)
            member: list[GrammarPart] = [f"{_MARK}<{key}>", *written, f"</{key}>"]
            parts += member if is_required else [OptionalPart(tuple(member))]
        return build_grammar(name, [*parts, f"{_INVOKE_ENDS}\n{_CLOSES}"], special_tokens)

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """See `MarkedCalls`."""
        return read_section(source, writer, found, _read_call, opens=_INVOKE, section_ends=_CLOSES)


def _read_call(source: TextSource, writer: CallWriter) -> Steps[bool]:
    name, end = yield from source.peek_until(Markers(['">']), MAX_NAME)
    if not end or not writer.knows(name):
        return False
    source.take(len(name) + len(end))
    source.release()
    writer.start(name)
    schema = writer.tools.get(name, {})
    before = "{"
    while True:
        yield from source.spaces()
        if (yield from source.literal(_INVOKE_ENDS)):
            writer.arguments("{}" if before == "{" else "}")
            writer.end()
            return True
        key = yield from _read_tag(source)
        if not key:
            return False
        value = yield from _read_value(source, key, find_property(schema, key, schema), schema)
        if value is None:
            return False
        writer.arguments(f"{before}{quote(key)}: {value}")
        before = ", "


def _read_tag(source: TextSource) -> Steps[str]:
    """The name of the tag that opens here; "" if there is none."""
    if not (yield from source.literal(f"{_MARK}<")):
        return ""
    tag = yield from source.peek_match(_TAG, MAX_NAME)
    source.take(len(tag))
    return tag if (yield from source.literal(">")) else ""


def _read_value(
    source: TextSource, tag: str, schema: Any, root: Schema, depth: int = 0
) -> Steps[str | None]:
    """The JSON of what is between a tag and its end; None if that is broken."""
    text, marker = yield from _read_text(source)
    if not marker or depth > _MAX_DEPTH:
        return None
    types = find_types(schema, root)
    members: list[tuple[str, str]] = []
    while True:
        if (yield from source.literal(f"/{tag}>")):
            return _to_json(text, members, types)
        key = yield from source.peek_match(_TAG, MAX_NAME)
        source.take(len(key))
        if not (yield from source.literal(">")):
            return None
        is_item = key == _ITEM and "object" not in types
        inner = find_items(schema, root) if is_item else find_property(schema, key, root)
        value = yield from _read_value(source, key, inner, root, depth + 1)
        if value is None:
            return None
        members.append((key, value))
        _, marker = yield from _read_text(source)
        if not marker:
            return None


def _read_text(source: TextSource) -> Steps[tuple[str, str]]:
    texts: list[str] = []
    markers = Markers([f"{_MARK}<"])
    while True:
        text, marker = yield from source.piece(markers)
        texts.append(text)
        if marker or not text:
            return "".join(texts), marker


def _to_json(text: str, members: list[tuple[str, str]], types: frozenset[str]) -> str:
    if not members:
        empty: Mapping[str, str] = {"array": "[]", "object": "{}"}
        only = next(iter(types), "") if len(types) == 1 else ""
        return empty[only] if not text and only in empty else text_to_json(text, types)
    if "object" not in types and all(key == _ITEM for key, _ in members):
        return "[" + ", ".join(value for _, value in members) + "]"
    return "{" + ", ".join(f"{quote(key)}: {value}" for key, value in members) + "}"


MINIMAX_M3 = TaggedCalls()
