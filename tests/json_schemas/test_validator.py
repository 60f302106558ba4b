"""The validator of the tests: what it accepts and refuses, by keyword."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.json_schemas.validator import Invalid, validate

CLOSED = {"properties": {"a": {"type": "integer"}}, "additionalProperties": False}
TREE = {
    "$ref": "#/$defs/n~1",
    "$defs": {"n/": {"type": "array", "items": {"$ref": "#/$defs/n~1"}}},
}
# By keyword: a schema, texts that fit and texts that do not.
CASES: list[tuple[Any, list[str], list[str]]] = [
    (True, ["1", '"a"'], []),
    ({}, ["1"], ["", "1 2", "NaN"]),
    ({"type": "integer"}, ["1", "1.0", "1e2"], ["1.5", "true", '"1"', "null"]),
    ({"type": ["null", "boolean"]}, ["null", "false"], ["0", '""']),
    ({"const": 1}, ["1", "1.0"], ["true", "2", '"1"']),
    ({"const": {"a": [True]}}, ['{"a": [true]}'], ['{"a": [1]}', '{"a": [true], "b": 1}']),
    ({"enum": ["a", None]}, ['"a"', "null"], ['"b"', "false"]),
    ({"minLength": 2, "maxLength": 3}, ['"🙂🙂"', '"abc"', "1"], ['"a"', '"abcd"']),
    ({"pattern": "^a$"}, ['"a"', "1"], ['"b"', '"ab"']),
    ({"minimum": 0, "exclusiveMaximum": 0.3}, ["0", "0.2", '"x"'], ["-0.1", "0.3"]),
    ({"exclusiveMinimum": 0, "maximum": 2}, ["1e-3", "2"], ["0", "2.0001"]),
    ({"multipleOf": 0.1}, ["0.3", "2"], ["0.25"]),
    ({"items": {"type": "null"}, "prefixItems": [{"const": 1}]}, ["[1, null]", "[]"], ["[1, 1]"]),
    ({"minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]", "{}"], ["[]", "[1, 2, 3]"]),
    (CLOSED, ['{"a": 1}', "{}", "[]"], ['{"a": "x"}', '{"b": 1}']),
    ({"required": ["a"]}, ['{"a": null}', "1"], ["{}"]),
    (
        {"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": {"const": 1}},
        ['{"xa": null, "b": 1}'],
        ['{"xa": 1}', '{"b": null}'],
    ),
    ({"anyOf": [{"const": 1}, {"type": "string"}]}, ["1", '"a"'], ["2"]),
    ({"oneOf": [{"minimum": 0}, {"maximum": 9}]}, ["-1", "10"], ["5"]),
    ({"allOf": [{"minimum": 0}, {"maximum": 9}]}, ["5"], ["-1", "10"]),
    (TREE, ["[[], [[]]]"], ["[1]", "[[[{}]]]"]),
    ({"format": "date"}, ['"2024-02-29"', "1"], ['"2023-02-29"', '"2023-1-01"', '"x"']),
    ({"format": "time"}, ['"23:59:60Z"', '"00:00:00.5+01:30"'], ['"24:00:00Z"', '"10:00:00"']),
    ({"format": "date-time"}, ['"2024-01-31T10:00:00Z"'], ['"2024-01-32T10:00:00Z"', '"2024"']),
    ({"format": "uuid"}, ['"01234567-89ab-cdef-0123-456789ABCDEF"'], ['"0123"']),
    ({"format": "ipv4"}, ['"127.0.0.1"'], ['"256.0.0.1"', '"1.1"']),
    ({"format": "ipv6"}, ['"::1"'], ['"1::2::3"']),
    ({"format": "email"}, ['"a.b@example.org"'], ['"a"', '"a@-b.org"']),
    ({"format": "hostname"}, ['"example.org"'], ['"-a"', '"a..b"']),
    ({"format": "duration"}, ['"P1DT2H"', '"P3W"'], ['"P"', '"P1DT"', '"1D"']),
]


@pytest.mark.parametrize(("schema", "fit", "wrong"), CASES, ids=lambda value: str(value)[:40])
def test_a_keyword_is_checked(schema: Any, fit: list[str], wrong: list[str]) -> None:
    for text in fit:
        validate(text, schema)
    for text in wrong:
        with pytest.raises(Invalid):
            validate(text, schema)


@pytest.mark.parametrize("schema", [{"not": {}}, {"format": "iri"}])
def test_what_is_not_known_is_not_passed_over(schema: Any) -> None:
    with pytest.raises((NotImplementedError, KeyError)):
        validate(json.dumps("x"), schema)
