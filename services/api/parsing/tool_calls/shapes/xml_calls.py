"""Calls with a tag for each parameter. Values are plain text; the schema says what they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
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
    MAX_KEY,
    check_key,
    describe_plain,
    find_members,
)
from services.api.parsing.tool_calls.shapes.schema_types import (
    find_property,
    find_types,
    quote,
    text_to_json,
)

_CDATA = ("<![CDATA[", "]]>")
# By what an attribute says: whether the value is a string.
_IS_STRING = {"true": True, "string": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What `describe_call` writes between the texts of a call."""

    in_section: str = ""  # after the start of a section and before its end
    after_name: str = ""
    before_value: str = ""  # after the end of the key
    around_value: str = ""
    after_value: str = ""
    name_rest: str = ""  # attributes after the name


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlCalls:
    """A dialect of this shape. Between the texts below there may be whitespace."""

    name: str
    section: tuple[str, ...] = ()  # pairs of texts around all calls
    opens: str  # the name follows
    name_ends: str
    name_rest: str = ""  # attributes after the name are ignored up to here
    key_opens: str
    key_ends: str
    value_opens: str = ""  # after the end of the key
    attribute_ends: str = ""  # before it is an attribute that says whether the value is a string
    has_type_attribute: bool = False  # the attribute is a JSON type, and not `true` for strings
    value_ends: str
    closes: str
    trims_newlines: bool = False  # one at each end of a value
    has_cdata: bool = False
    unescape: Callable[[str], str] = str  # of names and keys
    dropped: tuple[str, ...] = ()
    recipient: str = ""  # comes before a call of the function {}
    layout: Layout = Layout()
    new_id: NewId = new_openai_id
    handles_reasoning: bool = False

    @property
    def trigger(self) -> str:
        """See `ToolDialect`."""
        return self.section[0] if self.section else self.opens

    @property
    def markers(self) -> tuple[str, ...]:
        """See `MarkedCalls`."""
        return (self.opens, *self.section[:1])

    @property
    def shapes_text(self) -> bool:
        """See `ToolDialect`."""
        return bool(self.dropped)

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        headers = [self.recipient.format(name) for name in tools] if self.recipient else ()
        return open_answer(tools, dataclasses.replace(self, dropped=(*self.dropped, *headers)))

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`."""
        layout = self.layout
        start, end = self.section or ("", "")
        parts: list[GrammarPart] = [
            f"{start}{layout.in_section}{self.opens}{name}{self.name_ends}",
            f"{layout.name_rest}{self.name_rest}{layout.after_name}",
        ]
        for key, value, is_required in find_members(schema):
            check_key(key, is_writable=self.unescape(key) == key and self.key_ends not in key)
            member = self._describe_parameter(key, value, schema)
            parts += member if is_required else [OptionalPart(tuple(member))]
        parts.append(f"{self.closes}{layout.in_section}{end}")
        return build_grammar(name, parts, special_tokens)

    def _describe_parameter(self, key: str, schema: Any, root: Schema) -> list[GrammarPart]:
        layout = self.layout
        end = f"{layout.around_value}{self.value_ends}{layout.after_value}"
        only_strings = bool(self.attribute_ends)
        value, is_text = describe_plain(schema, root, end, only_strings=only_strings)
        attribute = str(is_text).lower()
        if self.has_type_attribute:
            kind = next(iter(find_types(schema, root)), "object").replace("integer", "number")
            attribute = "string" if is_text else kind
        start = (self.key_opens, key, self.key_ends, layout.before_value, self.value_opens)
        hint = (attribute, self.attribute_ends) if self.attribute_ends else ()
        return ["".join((*start, *hint, layout.around_value)), *value]

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """See `MarkedCalls`."""
        ends = self.section[1] if self.section else ""
        return read_section(
            source, writer, found, self._read_call, opens=self.opens, section_ends=ends
        )

    def _read_call(self, source: TextSource, writer: CallWriter) -> Steps[bool]:
        """Read a call after `opens`; whether it was whole."""
        text, end = yield from source.peek_until(self._name_markers(), MAX_NAME)
        name = self.unescape(text.strip())
        if not end or not writer.knows(name) or any(char in name for char in "<>\n "):
            return False
        source.take(len(text) + (len(end) if end == self.name_ends else 0))
        if self.name_rest:
            rest, end = yield from source.peek_until(Markers([self.name_rest]), MAX_NAME)
            if not end:
                return False
            source.take(len(rest) + len(end))
        source.release()
        writer.start(name)
        return (yield from self._read_parameters(source, writer, writer.tools.get(name, {})))

    def _name_markers(self) -> Markers:
        # The name may end with the first parameter, or with the call.
        is_plain = self.name_ends.isspace()
        return Markers([self.name_ends, *((self.key_opens, self.closes) if is_plain else ())])

    def _read_parameters(
        self, source: TextSource, writer: CallWriter, schema: Schema
    ) -> Steps[bool]:
        before = "{"
        while True:
            yield from source.spaces()
            if (yield from source.literal(self.closes)):
                writer.arguments("{}" if before == "{" else "}")
                writer.end()
                return True
            if not (yield from source.literal(self.key_opens)):
                return False
            key, end = yield from source.peek_until(Markers([self.key_ends]), MAX_KEY)
            if not end:
                return False
            source.take(len(key) + len(end))
            key = self.unescape(key)
            writer.arguments(f"{before}{quote(key)}: ")
            before = ", "
            if not (yield from self._read_value(source, writer, key, schema)):
                return False

    def _read_value(
        self, source: TextSource, writer: CallWriter, key: str, schema: Schema
    ) -> Steps[bool]:
        if self.value_opens:
            yield from source.spaces()
            if not (yield from source.literal(self.value_opens)):
                return False
        types = find_types(find_property(schema, key, schema), schema)
        if self.attribute_ends:
            text, end = yield from source.peek_until(Markers([self.attribute_ends]), MAX_KEY)
            if not end:
                return False
            source.take(len(text) + len(end))
            types = frozenset({"string"} if _IS_STRING.get(text) else types - {"string"})
        is_cdata = self.has_cdata and (yield from source.literal(_CDATA[0]))
        ends = _CDATA[1] + self.value_ends if is_cdata else self.value_ends
        if is_cdata or types == {"string"}:
            return (yield from self._copy_text(source, writer, ends))
        texts: list[str] = []
        if not (yield from self._copy_pieces(source, texts.append, ends)):
            return False
        writer.arguments(text_to_json("".join(texts), types))
        return True

    def _copy_text(self, source: TextSource, writer: CallWriter, ends: str) -> Steps[bool]:
        writer.arguments('"')
        is_whole = yield from self._copy_pieces(
            source, lambda text: writer.arguments(quote(text)[1:-1]), ends
        )
        writer.arguments('"' if is_whole else "")
        return is_whole

    def _copy_pieces(
        self, source: TextSource, emit: Callable[[str], None], ends: str
    ) -> Steps[bool]:
        """Read a value to its end, in pieces; whether the end was there."""
        if self.trims_newlines:
            yield from source.literal("\n")
        markers = Markers([ends])
        newline = ""
        while True:
            text, marker = yield from source.piece(markers)
            if not text and not marker:
                emit(newline)
                return False
            text, newline = newline + text, ""
            if self.trims_newlines and text.endswith("\n"):
                text, newline = text[:-1], "\n"
            emit(text)
            if marker and not (yield from self._continues(source, marker)):
                return True
            newline += source.release() if marker else ""

    def _continues(self, source: TextSource, marker: str) -> Steps[bool]:
        """Whether a marker in a value, as in code, is a part of it: nothing that may follow does.

        Then the source holds it.
        """
        source.hold(marker)
        yield from source.spaces()
        if (yield from source.may_follow((self.key_opens, self.closes))):
            source.release()
            return False
        return True
