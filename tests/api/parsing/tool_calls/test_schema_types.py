from __future__ import annotations

from typing import Any

import pytest

from services.api.parsing.tool_calls.shapes.schema_types import (
    find_property,
    find_types,
    text_to_json,
)


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("007", {"string"}, '"007"'),
        ("12", {"string"}, '"12"'),
        ("true", {"string"}, '"true"'),
        (' a\n"b" ', {"string"}, '" a\\n\\"b\\" "'),
        ("12", {"integer"}, "12"),
        (" 12\n", {"integer"}, "12"),
        ("9007199254740993123456789", {"integer"}, "9007199254740993123456789"),
        ("007", {"integer"}, '"007"'),
        ("twelve", {"integer"}, '"twelve"'),
        ("0.10", {"number"}, "0.10"),
        ("5", {"number"}, "5"),
        ("True", {"boolean"}, "true"),
        ("false", {"boolean"}, "false"),
        ("None", {"null", "integer"}, "null"),
        ("null", {"null", "string"}, "null"),
        ("nil", {"null", "string"}, '"nil"'),
        ("7", {"integer", "string"}, "7"),
        ("7", {"null", "string"}, '"7"'),
        ('{"a": [1]}', {"object"}, '{"a": [1]}'),
        ("{'a': [True, None]}", {"object"}, '{"a": [true, null]}'),
        ('{"a": "x\ny"}', {"object"}, '{"a": "x\\ny"}'),
        ("{broken", {"object"}, '"{broken"'),
        ("[1, 2]", {"array"}, "[1, 2]"),
        ("", {"array"}, '""'),
        ("12", set(), "12"),
        ("word", set(), '"word"'),
        ('"word"', set(), '"\\"word\\""'),
        ("{" * 9000, {"object"}, '"' + "{" * 9000 + '"'),
        ("9" * 9000, {"integer"}, '"' + "9" * 9000 + '"'),
    ],
)
def test_a_text_becomes_json_of_its_type(text: str, types: set[str], expected: str) -> None:
    assert text_to_json(text, types) == expected


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"enum": ["a", 1]}, {"string", "integer"}),
        ({"const": True}, {"boolean"}),
        ({"anyOf": [{"type": "string"}, {"oneOf": [{"type": "null"}]}]}, {"string", "null"}),
        ({"$ref": "#/$defs/size"}, {"integer"}),
        ({"properties": {}}, {"object"}),
        ({"$ref": "#/$defs/loop"}, set()),
        ({"$ref": "#/$defs/tree"}, {"string"}),
        ({"anyOf": [{}, {"properties": {}}, {"type": []}], "properties": {}}, {"object"}),
        ({"anyOf": "nonsense"}, set()),
        ({"type": 3}, set()),
        ({}, set()),
        (None, set()),
        (True, set()),
    ],
)
def test_the_types_of_a_schema(schema: Any, types: set[str]) -> None:
    tree = [{"$ref": "#/$defs/tree"}] * 50  # to a depth of 8, ten million million schemas
    root = {
        "$defs": {
            "size": {"type": "integer"},
            "loop": {"$ref": "#/$defs/loop"},
            "tree": {"anyOf": [{"type": "string"}, *tree]},
        }
    }

    assert find_types(schema, root) == types


def test_a_property_of_a_schema_that_is_no_object() -> None:
    assert find_property({"properties": []}, "a", {}) is None
    assert find_property(None, "a", {}) is None
