"""The values of a Go template, and how Go prints, encodes and judges them.

    Go                      here                  Go                      here
    nil                     None                  map                     dict, JsonMap
    bool, string, numbers   bool, str, int/float  struct                  Record
    slice, array            list, JsonList

Numbers are those of JSON: integers of any size stay integers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_NOT_IN_JSON = re.compile("[<>&\u2028\u2029]")  # encoding/json writes these as escapes
_FLOAT_LIMIT = 1e21  # from here on, JSON has an exponent
_EXPONENT_LIMIT = 1e6  # from here on, %v has one


class JsonMap(dict[str, Any]):
    """A map that prints as JSON."""


class JsonList(list[Any]):
    """A slice that prints as JSON."""


class Record:
    """A struct: only the fields that it has can be read.

    `json_form` is what encoding/json makes of it; with `prints_json` it is printed so too.
    """

    __slots__ = ("fields", "json_form", "prints_json")

    def __init__(
        self, fields: Mapping[str, Any], json_form: Any, *, prints_json: bool = False
    ) -> None:
        self.fields = fields
        self.json_form = json_form
        self.prints_json = prints_json


def is_true(value: Any) -> bool:
    """Whether `if` takes its branch: a struct always counts as true."""
    return isinstance(value, Record) or bool(value)


def type_name(value: Any) -> str:
    """What a message calls the type of a value."""
    names = {str: "string", bool: "bool", int: "int", float: "float64", type(None): "nil"}
    if type(value) in names:
        return names[type(value)]
    return "struct" if isinstance(value, Record) else "map" if isinstance(value, dict) else "slice"


def to_text(value: Any) -> str:
    """What the verb %v prints."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_to_text(value)
    if isinstance(value, JsonMap | JsonList) or (isinstance(value, Record) and value.prints_json):
        return to_json(value)
    if isinstance(value, Record):
        return "{" + " ".join(map(to_text, value.fields.values())) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{to_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(to_text, value)) + "]"
    return str(value)


def to_json(value: Any) -> str:
    """Compact JSON as encoding/json writes it, with the keys of maps sorted."""
    text = json.dumps(_to_plain(value), ensure_ascii=False, separators=(",", ":"))
    return _NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Record):
        return _to_plain_fields(value.json_form)
    if isinstance(value, dict):
        return {key: _to_plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _FLOAT_LIMIT:
        return int(value)
    return value


def _to_plain_fields(form: Any) -> Any:
    """The JSON form of a struct, whose fields keep their order."""
    if isinstance(form, dict) and not isinstance(form, JsonMap):
        return {key: _to_plain_fields(value) for key, value in form.items()}
    return _to_plain(form)


def _float_to_text(value: float) -> str:
    """The fewest digits, with an exponent from a million on: strconv's format g."""
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(value)]
    text = repr(value).removesuffix(".0")
    if "e" in text or abs(value) < _EXPONENT_LIMIT:
        return text
    before, _, after = text.removeprefix("-").partition(".")
    digits = (before + after).rstrip("0")
    sign, point = "-" if value < 0 else "", "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e+{len(before) - 1:02}"
