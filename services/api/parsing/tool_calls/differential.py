"""Finds the form of calls of an unknown template: renders a call, and looks at what is around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.shapes.json_calls import JsonCalls
from services.api.parsing.tool_calls.shapes.named_calls import NamedCalls

Render = Callable[[Sequence[dict[str, Any]]], str]

_NAME = "probe_function"
_ID = "abcdefgh1"  # nine letters and digits: Mistral's templates accept nothing else
_ARGUMENTS = {"probe_key": "probe value"}
# Its first and last characters begin and end no marker.
_ANSWER = "\N{SNOWMAN}answer\N{SNOWMAN}"
_USER = {"role": "user", "content": "question"}
# Characters of a call with what is around it. A model's file may come from anybody: a marker is
# searched for in every answer, and the arguments at every brace.
_MAX_CALL = 1024
_HALF_MARKER = re.compile(r"(?:[<\[][^<>\[\]]*)?$")
_OBJECT = re.compile(r'\{\s*"(?:name|tool_name|function)"\s*:\s*"$')


@dataclass(frozen=True, slots=True)
class _Call:
    """A rendered call, cut where its parts are: `before NAME between ARGUMENTS after`."""

    before: str
    between: str
    after: str


def find_by_rendering(render: Render) -> ToolDialect | None:
    """The dialect of a template; None if it shows no calls, or in a form that is not known.

    `render` returns the prompt for messages of OpenAI's form, without a generation prompt.
    """
    call = _cut_call(_render_call(render))
    if call is None:
        return None
    opening = _OBJECT.search(call.before)
    if opening is not None:
        return _build_json(call, call.before[: opening.start()])
    opens, has_id, before_name = call.before.strip().partition(_ID)
    name_ends = call.between.strip() or call.between
    if not opens or not name_ends:
        return None
    id_ = rf"(?P<id>\w*){re.escape(before_name)}" if has_id else ""
    return NamedCalls(
        name="found by rendering",
        example=f"{call.before}NAME{call.between}ARGUMENTS{call.after}".strip().replace(
            _ID, "{ID}"
        ),
        opens=opens,
        name_ends=name_ends,
        header=re.compile(rf"\s*{id_}(?P<name>[^\s\[\]<>{{}}]+)\s*"),
        closes=tuple(filter(None, [call.after.strip()])),
    )


def _render_call(render: Render) -> str:
    """What a template writes for a call where it writes the content of an answer."""
    function = {"name": _NAME, "arguments": json.dumps(_ARGUMENTS)}
    calls = [{"id": _ID, "type": "function", "function": function}]
    answered = render([_USER, {"role": "assistant", "content": _ANSWER}])
    called = render([_USER, {"role": "assistant", "content": "", "tool_calls": calls}])
    before, found, after = answered.partition(_ANSWER)
    if not found:
        return ""
    size = _count_common(before, called)
    if size < len(before):  # it begins an answer in another way when that has calls
        size = len(_HALF_MARKER.sub("", before[:size]))
    call = called[size:].removesuffix(after)
    return call if len(call) <= _MAX_CALL else ""


def _count_common(first: str, second: str) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


def _cut_call(text: str) -> _Call | None:
    before, found, rest = text.partition(_NAME)
    if not found:
        return None
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", rest):
        try:
            value, end = decoder.raw_decode(rest, match.start())
        except (ValueError, RecursionError):
            continue
        if value == _ARGUMENTS:
            return _Call(before, rest[: match.start()], rest[end:])
    return None


def _build_json(call: _Call, opens: str) -> JsonCalls | None:
    object_end = call.after.find("}")
    if object_end < 0:
        return None
    closes = call.after[object_end + 1 :].strip().removeprefix("]").strip()
    marker = opens.strip().removesuffix("[").strip()
    return JsonCalls(
        name="found by rendering",
        example=f"{call.before}NAME{call.between}ARGUMENTS{call.after}".strip(),
        opens=marker or "{",
        closes=closes if marker else "",
        is_bare=not marker,
    )
