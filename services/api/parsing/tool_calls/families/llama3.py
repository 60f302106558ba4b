"""Llama 3: bare JSON; after `<|python_tag|>` JSON, a call of a built-in tool, or Python code.

{"name": "get_weather", "parameters": {"city": "Paris"}}
<|python_tag|>brave_search.call(query="weather in Paris")
<|python_tag|>print(1 + 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.api.parsing.holdback import Markers
from services.api.parsing.text_source import Steps, TextSource
from services.api.parsing.tool_calls.base import MAX_NAME, CallWriter
from services.api.parsing.tool_calls.shapes.answer_parser import Found
from services.api.parsing.tool_calls.shapes.json_calls import JsonCalls
from services.api.parsing.tool_calls.shapes.literals import PYTHON, copy_members
from services.api.parsing.tool_calls.shapes.schema_types import quote

_CALL = Markers([".call("])
_CODE_ENDS = Markers(["<|eom_id|>"])
_INTERPRETERS = ("python", "ipython", "code_interpreter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Calls(JsonCalls):
    """The dialect of Llama 3.1 to 3.3."""

    def read_calls(self, source: TextSource, writer: CallWriter, found: Found) -> Steps[None]:
        """See `MarkedCalls`."""
        if found.marker == self.opens:
            yield from source.spaces()
            if (yield from source.need()) not in ("{", "["):
                yield from _read_python(source, writer)
                return
        yield from JsonCalls.read_calls(self, source, writer, found)


def _read_python(source: TextSource, writer: CallWriter) -> Steps[None]:
    name, end = yield from source.peek_until(_CALL, MAX_NAME)
    if end and writer.knows(name):
        source.take(len(name) + len(end))
        source.release()
        writer.start(name)
        if (yield from copy_members(source, writer.arguments, PYTHON, ")", "=")):
            writer.end()
        return
    interpreter = next((name for name in _INTERPRETERS if name in writer.tools), None)
    if interpreter is None:
        return
    source.release()
    writer.start(interpreter)
    yield from _copy_code(source, writer, _find_parameter(writer.tools[interpreter]))


def _copy_code(source: TextSource, writer: CallWriter, key: str) -> Steps[None]:
    """Read code to the end of the answer; the end of the text is that of the code."""
    writer.arguments(f'{{{quote(key)}: "')
    while True:
        text, marker = yield from source.piece(_CODE_ENDS)
        writer.arguments(quote(text)[1:-1])
        if marker or not text:
            break
    writer.arguments('"}')
    writer.end()


def _find_parameter(schema: Mapping[str, object]) -> str:
    properties = schema.get("properties")
    return next(iter(properties), "code") if isinstance(properties, Mapping) else "code"


LLAMA3 = Llama3Calls(
    name="llama3",
    example='{"name": "NAME", "parameters": ARGUMENTS}',
    opens="<|python_tag|>",
    is_bare=True,
)
