"""Which texts a value may be that is written without quotes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from services.api.parsing.tool_calls.base import Schema
from services.api.parsing.tool_calls.shapes.grammar import (
    ChoicePart,
    GrammarPart,
    JsonPart,
    TextPart,
)
from services.api.parsing.tool_calls.shapes.schema_types import find_property, find_types, resolve
from services.shared.errors import InvalidRequest

_DAYS = (
    r"((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))"
)
_LEAP_YEAR = r"(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DATE = rf"(\d{{4}}-{_DAYS}|{_LEAP_YEAR}-02-29)"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_HOST = r"[a-zA-Z0-9]{1,63}(-[a-zA-Z0-9]{1,31})?(\.[a-zA-Z0-9]{1,63}(-[a-zA-Z0-9]{1,31})?){0,9}"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "hostname": _HOST,
    "email": rf"[a-zA-Z0-9_%+-]{{1,64}}(\.[a-zA-Z0-9_%+-]{{1,64}}){{0,9}}@{_HOST}",
    "uri": r"[a-z][a-z0-9+.-]{0,31}:[a-zA-Z0-9\/?#@!$&'()*+,;=:._~-]+",
}
_LENGTHS = ("minLength", "maxLength")
_KEYWORDS = (*_LENGTHS, "pattern", "format")
_MAX_TEXTS = 1000
_MAX_MIN_LENGTH = 256  # with more, llguidance gives up
MAX_KEY = 512  # characters
_MAX_CHARS = 1 << 20  # of a grammar, in the engine
_CHAR = r"(.|\n)"


def describe_json(schema: Any, root: Schema) -> JsonPart:
    """A value of a part of a schema, with what the part may refer to."""
    if not isinstance(schema, Mapping):
        return JsonPart(schema)
    guidance = {key: root[key] for key in ("x-guidance",) if key in root}
    if not _has_reference(schema):
        return JsonPart({**schema, **guidance})
    # References count from the root, which the part becomes.
    whole = {key: value for key, value in root.items() if key != "x-guidance"}
    return JsonPart({**_move(schema), "$defs": {"whole": _move(whole)}, **guidance})


def _has_reference(schema: Any) -> bool:
    return '"$ref"' in json.dumps(schema)


def _move(schema: Any) -> Any:
    """A copy that refers to the same schemas under `#/$defs/whole`."""
    if isinstance(schema, list):
        return [_move(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _move(value) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = "#/$defs/whole" + reference[1:]
    return moved


def describe_plain(
    schema: Any, root: Schema, end: str, *, only_strings: bool = False
) -> tuple[list[GrammarPart], bool]:
    """A value that is written without quotes, and its end; whether it is a string.

    What may be a string or something else is any text: the parser tells which. `only_strings`: it
    is written as a string. InvalidRequest where a strict schema has a keyword that cannot be
    enforced so.
    """
    types = find_types(schema, root)
    if types and "string" not in types:
        return [describe_json(schema, root), end], False
    values = _list_values(schema, root)
    if values is not None:
        texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
        if only_strings:
            texts = [v for v in values if isinstance(v, str)]
        return [ChoicePart(tuple(dict.fromkeys(texts))), end], True
    return [TextPart(end, _find_pattern(schema, root, only_strings=only_strings))], True


def find_members(schema: Schema) -> list[tuple[str, Any, bool]]:
    """Name and schema of each parameter, and whether it is required."""
    own = resolve(schema, schema)
    own = own if isinstance(own, Mapping) else {}
    properties = own.get("properties")
    members = dict(properties) if isinstance(properties, Mapping) else {}
    required = own.get("required")
    names = (
        [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    )
    missing = [name for name in names if name not in members]
    members.update({name: find_property(own, name, schema) or {} for name in missing})
    # Each that refers to others is written with the whole schema.
    references = sum(map(_has_reference, members.values()))
    if references and references * len(json.dumps(schema)) > _MAX_CHARS:
        raise InvalidRequest(
            "the parameters of a function refer too often to a long schema", param="tools"
        )
    return [(name, value, name in names) for name, value in members.items()]


def check_key(key: str, *, is_writable: bool) -> None:
    """InvalidRequest for the name of a parameter that would not be read back."""
    if not is_writable or len(key) > MAX_KEY:
        raise InvalidRequest(
            f"the parameter {key[:64]!r} cannot be written in this model's calls", param="tools"
        )


def _list_values(schema: Any, root: Schema) -> list[Any] | None:
    """The values that a schema allows, where it lists them."""
    found: list[Any] = []
    options, seen = [schema], set[int]()
    # Each schema once: references make an endless tree of a few unions.
    for option in (resolve(given, root) for given in options):
        if not isinstance(option, Mapping) or len(options) > _MAX_TEXTS:
            return None
        if id(option) in seen:
            continue
        seen.add(id(option))
        values = _list_own_values(option)
        if values is not None:
            found += values
            continue
        more = option.get("anyOf") or option.get("oneOf")
        if not isinstance(more, list) or "type" in option:
            return None
        options += more
    return found or None


def _list_own_values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    if isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    by_type: dict[str, list[Any]] = {"null": [None], "boolean": [True, False]}
    return by_type.get(str(schema.get("type")))


def _find_pattern(schema: Any, root: Schema, *, only_strings: bool) -> str:
    """A regular expression of the texts; "" for any text."""
    strings, others = [], list[Any]()
    for option in _list_options(schema, root):
        values = _list_values(option, root)
        if values is None or any(isinstance(value, str) for value in values):
            strings.append(option)
        else:
            others += values
    keywords = [key for key in _KEYWORDS if any(key in option for option in strings)]
    if not keywords:
        return ""
    pattern = _build_pattern(strings[0], keywords) if len(strings) == 1 else ""
    if not pattern and not root.get("x-guidance", {}).get("lenient"):
        raise InvalidRequest(
            f"{' with '.join(keywords)} cannot be enforced for a text in this model's calls",
            param="tools",
        )
    if not pattern or only_strings:
        return pattern
    return "|".join([f"({pattern})", *(re.escape(json.dumps(value)) for value in others)])


def _list_options(schema: Any, root: Schema) -> list[Schema]:
    """What a schema chooses from: its alternatives, or its types."""
    schema = resolve(schema, root)
    if not isinstance(schema, Mapping):
        return []
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list) and "type" not in schema:
        resolved = [resolve(option, root) for option in options[:_MAX_TEXTS]]
        return [option for option in resolved if isinstance(option, Mapping)]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    return [schema]


def _build_pattern(schema: Schema, keywords: list[str]) -> str:
    if schema.get("type") != "string":
        return ""
    if all(key in _LENGTHS for key in keywords):
        low, high = schema.get("minLength", 0), schema.get("maxLength", "")
        return (
            f"{_CHAR}{{{low},{high}}}"
            if _is_size(low, _MAX_MIN_LENGTH) and _is_size(high or 0, 1 << 16)
            else ""
        )
    if keywords == ["format"]:
        return _FORMATS.get(str(schema["format"]), "")
    return _anchor(str(schema["pattern"])) if keywords == ["pattern"] else ""


def _is_size(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _anchor(pattern: str) -> str:
    """The pattern for a whole text: JSON schema looks for it anywhere. "" if that is not certain."""
    if not pattern.startswith("^") or not pattern.endswith("$") or not _is_sequence(pattern[1:-1]):
        return ""
    return re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", pattern[1:-1]).replace("\n", r"\n")


def _is_sequence(pattern: str) -> bool:
    """Whether it has neither alternatives outside of groups nor anchors."""
    depth, is_class = 0, False
    for part in re.findall(r"\\.|.", pattern, re.DOTALL):
        if is_class:
            is_class = part != "]"
        elif part == "[":
            is_class = True
        elif part in "()":
            depth += 1 if part == "(" else -1
        elif part in ("^", "$", r"\b", r"\B") or (part == "|" and not depth):
            return False
    return not pattern.endswith("\\") or pattern.endswith("\\\\")
