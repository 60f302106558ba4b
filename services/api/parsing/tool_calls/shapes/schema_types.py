"""Which JSON a parameter's text stands for, in dialects that write values without quotes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from services.api.parsing.json_copy import parse_json
from services.api.parsing.tool_calls.base import Schema
from services.api.parsing.tool_calls.shapes.literals import PYTHON, literal_to_json

_MAX_REFERENCES = 8  # that follow each other
_MAX_OPTIONS = 1000  # of unions, those inside others included
_PYTHON_NAMES = {"True": "true", "False": "false", "None": "null"}
_KIND_OF_CLASS = {str: "string", bool: "boolean", int: "integer", float: "number"}


def resolve(schema: Any, root: Schema) -> Any:
    """What a schema refers to, or itself; None if there is nothing."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        schema = root
        for key in reference[2:].split("/"):
            schema = schema.get(key) if isinstance(schema, Mapping) else None
    return schema


def find_property(schema: Any, key: str, root: Schema) -> Any:
    """The schema of a property, or of those without a name of their own; None if there is none."""
    schema = resolve(schema, root)
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    return schema.get("additionalProperties")


def find_items(schema: Any, root: Schema) -> Any:
    """The schema of the items of an array; None if there is none."""
    schema = resolve(schema, root)
    return schema.get("items") if isinstance(schema, Mapping) else None


def find_types(schema: Any, root: Schema) -> frozenset[str]:
    """The JSON types that a schema allows; none if it does not say."""
    found: set[str] = set()
    options, seen = [schema], set[int]()
    # Each schema once, and not too many: references make an endless tree of a few unions.
    while options and len(seen) < _MAX_OPTIONS:
        option = resolve(options.pop(), root)
        if isinstance(option, Mapping) and id(option) not in seen:
            seen.add(id(option))
            own = _find_own_types(option)
            found |= own
            options += () if own else _find_options(option)
    return frozenset(found)


def _find_own_types(schema: Schema) -> frozenset[str]:
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(kind for kind in declared if isinstance(kind, str))
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if isinstance(values, list) and values:
        return frozenset(_KIND_OF_CLASS.get(type(value), "null") for value in values)
    is_object = "properties" in schema and not _find_options(schema)
    return frozenset({"object"} if is_object else ())


def _find_options(schema: Schema) -> list[Any]:
    options = schema.get("anyOf") or schema.get("oneOf")
    return options[:_MAX_OPTIONS] if isinstance(options, list) else []


def text_to_json(text: str, types: Iterable[str]) -> str:
    """The JSON of a parameter's text: its own text if that is JSON of one of the types.

    A string stays as it is written. So does what cannot be parsed. Python's literals, which some
    templates write, become JSON.
    """
    allowed = frozenset(types)
    if allowed == {"string"}:
        return quote(text)
    value = text.strip()
    value = _PYTHON_NAMES.get(value, value)
    kind, parsed = parse_json(value)
    if not kind and value[:1] in ("{", "["):
        kind, parsed = parse_json(literal_to_json(value, PYTHON))
    accepts_strings = "string" in allowed
    if kind in allowed or (kind == "integer" and "number" in allowed):
        return parsed if kind != "string" else quote(text)
    if kind and not accepts_strings and (allowed or kind != "string"):
        return parsed
    return quote(text)


def quote(text: str) -> str:
    """The text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)
