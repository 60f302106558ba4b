"""Validate JSON texts against JSON schemas (draft 2020-12); shares no code with what it checks.

A keyword or a format that is not known here raises, so that nothing is passed over.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from datetime import date, time
from decimal import Decimal
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: isinstance(value, Decimal),
    "integer": lambda value: isinstance(value, Decimal) and value == value.to_integral_value(),
}
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_ZONE = r"(Z|z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_IGNORED = {"$defs", "definitions", "title", "description", "$schema"}


class Invalid(Exception):
    """The value does not fit; the message tells where and why."""


def validate(text: str, schema: Any) -> Any:
    """The value of the text. Raises Invalid if it is no JSON, or not of the schema."""
    value = _parse(text)
    exact = _parse(json.dumps(schema))
    _Validator(exact).check(value, exact, "$")
    return value


def _parse(text: str) -> Any:
    """Numbers become Decimal. Of a name that stands twice in an object, the last value counts."""
    try:
        return json.loads(
            text,
            parse_int=Decimal,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
        )
    except ValueError as error:
        raise Invalid(f"no JSON: {error}: {text!r}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Validator:
    def __init__(self, root: Any) -> None:
        self._root = root

    def check(self, value: Any, schema: Any, where: str) -> None:
        if isinstance(schema, bool):
            _require(schema, where, "nothing is allowed")
            return
        for keyword in schema:
            if keyword in _IGNORED:
                continue
            check = getattr(self, "_check_" + keyword.strip("$"), None)
            if check is None:
                raise NotImplementedError(keyword)
            check(value, schema, where)

    def _fits(self, value: Any, schema: Any) -> bool:
        try:
            self.check(value, schema, "$")
        except Invalid:
            return False
        return True

    def _check_ref(self, value: Any, schema: Any, where: str) -> None:
        target = self._root
        for name in schema["$ref"].removeprefix("#").split("/")[1:]:
            target = target[name.replace("~1", "/").replace("~0", "~")]
        self.check(value, target, where)

    def _check_type(self, value: Any, schema: Any, where: str) -> None:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        _require(any(_TYPES[kind](value) for kind in kinds), where, f"{value!r} is not {kinds}")

    def _check_const(self, value: Any, schema: Any, where: str) -> None:
        _require(_equal(value, schema["const"]), where, f"{value!r} is not the constant")

    def _check_enum(self, value: Any, schema: Any, where: str) -> None:
        found = any(_equal(value, allowed) for allowed in schema["enum"])
        _require(found, where, f"{value!r} is not in the enum")

    def _check_anyOf(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        count = sum(self._fits(value, option) for option in schema["anyOf"])
        _require(count > 0, where, f"{value!r} fits nothing of anyOf")

    def _check_oneOf(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        count = sum(self._fits(value, option) for option in schema["oneOf"])
        _require(count == 1, where, f"{value!r} fits {count} of oneOf")

    def _check_allOf(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        for option in schema["allOf"]:
            self.check(value, option, where)

    # ---- strings

    def _check_minLength(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        _require(not isinstance(value, str) or len(value) >= schema["minLength"], where, "short")

    def _check_maxLength(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        _require(not isinstance(value, str) or len(value) <= schema["maxLength"], where, "long")

    def _check_pattern(self, value: Any, schema: Any, where: str) -> None:
        found = not isinstance(value, str) or re.search(schema["pattern"], value)
        _require(bool(found), where, f"{value!r} does not match {schema['pattern']}")

    def _check_format(self, value: Any, schema: Any, where: str) -> None:
        if isinstance(value, str):
            try:
                _FORMATS[schema["format"]](value)
            except ValueError as error:
                raise Invalid(f"{where}: {value!r} is no {schema['format']}") from error

    # ---- numbers

    def _check_minimum(self, value: Any, schema: Any, where: str) -> None:
        _require(not _is_number(value) or value >= schema["minimum"], where, f"{value} is too low")

    def _check_maximum(self, value: Any, schema: Any, where: str) -> None:
        _require(not _is_number(value) or value <= schema["maximum"], where, f"{value} is too high")

    def _check_exclusiveMinimum(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        fits = not _is_number(value) or value > schema["exclusiveMinimum"]
        _require(fits, where, f"{value} is too low")

    def _check_exclusiveMaximum(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        fits = not _is_number(value) or value < schema["exclusiveMaximum"]
        _require(fits, where, f"{value} is too high")

    def _check_multipleOf(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        fits = not _is_number(value) or value % schema["multipleOf"] == 0
        _require(fits, where, f"{value} is no multiple")

    # ---- arrays

    def _check_items(self, value: Any, schema: Any, where: str) -> None:
        if isinstance(value, list):
            start = len(schema.get("prefixItems", ()))
            for index, item in enumerate(value[start:], start):
                self.check(item, schema["items"], f"{where}[{index}]")

    def _check_prefixItems(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        if isinstance(value, list):
            for index, (item, inner) in enumerate(zip(value, schema["prefixItems"], strict=False)):
                self.check(item, inner, f"{where}[{index}]")

    def _check_minItems(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        _require(not isinstance(value, list) or len(value) >= schema["minItems"], where, "few")

    def _check_maxItems(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        _require(not isinstance(value, list) or len(value) <= schema["maxItems"], where, "many")

    # ---- objects

    def _check_required(self, value: Any, schema: Any, where: str) -> None:
        if isinstance(value, dict):
            missing = [name for name in schema["required"] if name not in value]
            _require(not missing, where, f"{missing} are missing")

    def _check_properties(self, value: Any, schema: Any, where: str) -> None:
        for name in _names(value):
            if name in schema["properties"]:
                self.check(value[name], schema["properties"][name], f"{where}.{name}")

    def _check_patternProperties(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        for name in _names(value):
            for pattern, inner in schema["patternProperties"].items():
                if re.search(pattern, name):
                    self.check(value[name], inner, f"{where}.{name}")

    def _check_additionalProperties(self, value: Any, schema: Any, where: str) -> None:  # noqa: N802
        patterns = schema.get("patternProperties", ())
        for name in _names(value):
            is_declared = name in schema.get("properties", ())
            if not is_declared and not any(re.search(pattern, name) for pattern in patterns):
                self.check(value[name], schema["additionalProperties"], f"{where}.{name}")


def _names(value: Any) -> Iterable[str]:
    return value if isinstance(value, dict) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, Decimal)


def _equal(first: Any, second: Any) -> bool:
    """Whether two parsed values are the same JSON: 1 and true are not, 1 and 1.0 are."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    return bool(first == second)


def _require(fits: bool, where: str, problem: str) -> None:
    if not fits:
        raise Invalid(f"{where}: {problem}")


def _match(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(text)
    return text


def _read_time(text: str) -> None:
    """A time of RFC 3339, whose 60th second is a leap second."""
    _match(rf"\d\d:\d\d:\d\d(\.\d+)?{_ZONE}", text)
    hours, minutes, seconds = (int(text[place : place + 2]) for place in (0, 3, 6))
    time(hours, minutes, min(seconds, 59) if seconds <= 60 else seconds)


def _read_date_time(text: str) -> None:
    day, _, rest = text.replace("t", "T").partition("T")
    _FORMATS["date"](day)
    _read_time(rest)


_FORMATS: dict[str, Callable[[str], object]] = {
    "date": lambda text: date.fromisoformat(_match(r"\d{4}-\d\d-\d\d", text)),
    "time": _read_time,
    "date-time": _read_date_time,
    "uuid": lambda text: _match(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "email": lambda text: _match(r"[^@\s]+@(" + _LABEL + r"(\." + _LABEL + r")*|\[.+\])", text),
    "hostname": lambda text: _match(rf"{_LABEL}(\.{_LABEL})*", text),
    "duration": lambda text: _match(
        r"P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?)", text
    ),
}
