"""The functions that a template may call: those of Go, and those that Ollama adds.

`and` and `or` are not here: they leave arguments unevaluated (`evaluate.py`).
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

from services.shared.templates.go_template.errors import GoTemplateError
from services.shared.templates.go_template.limits import Budget
from services.shared.templates.go_template.printing import sprint, sprintf
from services.shared.templates.go_template.values import (
    Record,
    is_true,
    to_json,
    to_text,
    type_name,
)

Function = Callable[[Sequence[Any], Budget], Any]
SHORT_CIRCUIT = frozenset({"and", "or"})

_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _kind(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if is_number else type_name(value)


def _equals(left: Any, right: Any) -> bool:
    for value in (left, right):
        if isinstance(value, dict | list):
            raise GoTemplateError(f"a {type_name(value)} cannot be compared")
    if left is None or right is None:
        return left is right
    if _kind(left) != _kind(right):
        raise GoTemplateError(f"{type_name(left)} and {type_name(right)} cannot be compared")
    return bool(left == right)


def _eq(arguments: Sequence[Any], _: Budget) -> bool:
    first, *others = arguments
    if not others:
        raise GoTemplateError("`eq` needs two arguments")
    return any(_equals(first, other) for other in others)


def _compare(arguments: Sequence[Any], _: Budget) -> int:
    left, right = arguments
    if _kind(left) != _kind(right) or _kind(left) not in {"number", "string"}:
        raise GoTemplateError(f"{type_name(left)} and {type_name(right)} have no order")
    return int(left > right) - int(left < right)


def _len(arguments: Sequence[Any], _: Budget) -> int:
    (value,) = arguments
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    if isinstance(value, list | dict):
        return len(value)
    raise GoTemplateError(f"a {type_name(value)} has no length")


def _index(arguments: Sequence[Any], _: Budget) -> Any:
    value, *keys = arguments
    for key in keys:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise GoTemplateError("the key of a map is a string")
            value = value.get(key)
            continue
        if not isinstance(value, list | str):
            raise GoTemplateError(f"a {type_name(value)} has no index")
        items = value.encode("utf-8", "replace") if isinstance(value, str) else value
        value = items[_check_index(key, len(items) - 1)]
    return value


def _slice(arguments: Sequence[Any], budget: Budget) -> Any:
    value, *bounds = arguments
    if isinstance(value, str):
        budget.make(len(value))
        data = value.encode("utf-8", "replace")
        start, end = _read_bounds(bounds, len(data))
        return data[start:end].decode("utf-8", "replace")
    if not isinstance(value, list):
        raise GoTemplateError(f"a {type_name(value)} cannot be sliced")
    start, end = _read_bounds(bounds, len(value))
    budget.step((end - start) >> 8)  # copying is fast, but not free
    return type(value)(value[start:end])


def _read_bounds(bounds: Sequence[Any], length: int) -> tuple[int, int]:
    if len(bounds) > 3:
        raise GoTemplateError("`slice` has too many arguments")
    start = _check_index(bounds[0], length) if bounds else 0
    end = _check_index(bounds[1], length) if len(bounds) > 1 else length
    if start > end:
        raise GoTemplateError("a slice ends before it starts")
    return start, end


def _check_index(index: Any, largest: int) -> int:
    if not isinstance(index, int) or isinstance(index, bool):
        raise GoTemplateError("an index is an integer")
    if not 0 <= index <= largest:
        raise GoTemplateError(f"the index {str(index)[:20]} is out of range")
    return index


def _print(arguments: Sequence[Any], budget: Budget) -> str:
    return budget.join(sprint(arguments))


def _println(arguments: Sequence[Any], budget: Budget) -> str:
    return " ".join([budget.join([to_text(value)]) for value in arguments]) + "\n"


def _printf(arguments: Sequence[Any], budget: Budget) -> str:
    form, *values = arguments
    if not isinstance(form, str):
        raise GoTemplateError("`printf` needs a string first")
    return sprintf(form, values, budget)


def _json(arguments: Sequence[Any], budget: Budget) -> str:
    (value,) = arguments
    text = to_json(value)
    budget.make(len(text))
    return text


def _html(arguments: Sequence[Any], budget: Budget) -> str:
    text = _print(arguments, budget)
    budget.make(4 * len(text))
    return html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _js(arguments: Sequence[Any], budget: Budget) -> str:
    text = _print(arguments, budget)
    budget.make(6 * len(text))
    return "".join(map(_escape_for_js, text))


def _escape_for_js(char: str) -> str:
    if char in "\\'\"":
        return f"\\{char}"
    if char in "<>&=" or char < " ":
        return f"\\u{ord(char):04X}"
    return char if char.isascii() or char.isprintable() else f"\\u{ord(char):04X}"


def _urlquery(arguments: Sequence[Any], budget: Budget) -> str:
    text = _print(arguments, budget)
    budget.make(11 * len(text))
    return quote_plus(text, errors="replace")


def _format_day(days: int) -> str:
    # Local time, as in Ollama: a template prints the date for a person.
    return (datetime.now().astimezone() + timedelta(days=days)).strftime("%Y-%m-%d")


def _to_typescript(value: Any) -> str:
    """The TypeScript type of a property of a tool's parameters."""
    if not isinstance(value, Record):
        return "any"
    if choices := value.fields.get("AnyOf"):
        return " | ".join(map(_to_typescript, choices))
    kinds = value.fields.get("Type") or []
    names = [kinds] if isinstance(kinds, str) else kinds
    return " | ".join(_TYPESCRIPT.get(str(name), "any") for name in names) or "any"


# By name: the smallest and the largest number of arguments, and the function.
FUNCTIONS: dict[str, tuple[int, int | None, Function]] = {
    "not": (1, 1, lambda a, _: not is_true(a[0])),
    "eq": (1, None, _eq),
    "ne": (2, 2, lambda a, _: not _equals(a[0], a[1])),
    "lt": (2, 2, lambda a, b: _compare(a, b) < 0),
    "le": (2, 2, lambda a, b: _compare(a, b) <= 0),
    "gt": (2, 2, lambda a, b: _compare(a, b) > 0),
    "ge": (2, 2, lambda a, b: _compare(a, b) >= 0),
    "len": (1, 1, _len),
    "index": (1, None, _index),
    "slice": (1, None, _slice),
    "print": (0, None, _print),
    "println": (0, None, _println),
    "printf": (1, None, _printf),
    "html": (1, None, _html),
    "js": (1, None, _js),
    "urlquery": (1, None, _urlquery),
    "json": (1, 1, _json),
    "currentDate": (0, None, lambda _, __: _format_day(0)),
    "yesterdayDate": (0, None, lambda _, __: _format_day(-1)),
    "toTypeScriptType": (1, 1, lambda a, _: _to_typescript(a[0])),
}
NAMES = frozenset(FUNCTIONS) | SHORT_CIRCUIT


def call(name: str, arguments: Sequence[Any], budget: Budget) -> Any:
    """The value of a function. Raises GoTemplateError."""
    smallest, largest, function = FUNCTIONS[name]
    if len(arguments) < smallest or (largest is not None and len(arguments) > largest):
        raise GoTemplateError(f"`{name}` has {len(arguments)} arguments, which is a wrong number")
    return function(arguments, budget)
