"""A schema or grammar with too many choices at a time is refused before it costs anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.engine.core import Constraint
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.schema_choices import check_gbnf, check_lark, check_schema
from services.engine.runner.requests.structured_output import ConstraintCompiler
from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_CONSTRAINT_CHOICES, MAX_FORCED_CHARS

MANY = MAX_CONSTRAINT_CHOICES + 1
TEXT = {"type": "string"}


def make_object(count: int, **more: Any) -> dict[str, Any]:
    names = [f"p{number}" for number in range(count)]
    return {"type": "object", "properties": dict.fromkeys(names, TEXT), **more}


HOSTILE: dict[str, dict[str, Any]] = {
    "optional properties": make_object(MANY),
    "in several objects": {"anyOf": [make_object(200) for _ in range(6)]},
    "patterns": {"patternProperties": {f"^{number}": TEXT for number in range(MANY)}},
    "anyOf": {"anyOf": [{"const": number} for number in range(MANY)]},
    "oneOf": {"oneOf": [{"const": number} for number in range(MANY)]},
    "enum of objects": {"enum": [{"a": number} for number in range(MANY)]},
    "deep": {"properties": {"a": {"items": [{"$defs": {"b": make_object(MANY)}}]}}},
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_too_many_choices_are_refused_with_the_limit(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"of at most {MAX_CONSTRAINT_CHOICES}"):
        check_schema(schema)


ORDINARY: dict[str, dict[str, Any]] = {
    "required properties": make_object(5000, required=[f"p{number}" for number in range(5000)]),
    "enum of texts": {"enum": [str(number) for number in range(10_000)]},
    "optional properties": make_object(MAX_CONSTRAINT_CHOICES),
    "malformed": {"properties": [], "required": 3, "anyOf": {}, "enum": None},
}


@pytest.mark.parametrize("schema", ORDINARY.values(), ids=ORDINARY.keys())
def test_what_is_cheap_is_not_counted(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": 2**53 + 1},
        {"items": {"enum": ["a", -12345678901234567890]}},
        {"properties": {"a": {"const": {"b": [2**64]}}}},
    ],
)
def test_an_integer_that_would_be_forced_as_another_one_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"(const|enum) has an integer of more than 53 bits"):
        compile_constraint("json_schema", json.dumps(schema))


def test_an_integer_of_53_bits_may_be_a_constant_and_one_of_64_bits_a_bound() -> None:
    for schema in ({"const": -(2**53)}, {"type": "integer", "maximum": 2**63 - 1}):
        compile_constraint("json_schema", json.dumps(schema))


LONG = "x" * (MAX_FORCED_CHARS + 1)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", LONG),
        ("json_schema", json.dumps({"const": LONG})),
        ("json_schema", json.dumps({"enum": ["a", {"b": [LONG]}]})),
        ("json_schema", json.dumps({"const": {LONG: 1}})),
        ("json_schema", json.dumps({"properties": {LONG: TEXT}})),
        ("json_schema", json.dumps({"items": {"type": "string", "pattern": LONG}})),
    ],
)
def test_a_text_that_is_forced_has_a_limit(kind: str, source: str) -> None:
    """With 250 000 characters each token of each answer would take an eighth of a second."""
    with pytest.raises(InvalidRequest, match=f"of at most {MAX_FORCED_CHARS}"):
        compile_constraint(kind, source)


def test_what_only_describes_a_schema_may_be_long() -> None:
    compile_constraint("json_schema", json.dumps({"type": "string", "description": LONG}))


def test_a_grammar_may_have_as_many_alternatives() -> None:
    check_gbnf("root ::= " + " | ".join(["x"] * MAX_CONSTRAINT_CHOICES))
    with pytest.raises(InvalidRequest, match="alternatives"):
        check_gbnf("root ::= " + " | ".join(["x"] * (MANY + 1)))


def test_the_schemas_and_the_optional_parts_of_a_grammar_are_counted() -> None:
    check_lark(f"start: a\na: %json {json.dumps(make_object(MAX_CONSTRAINT_CHOICES))}\n")
    for source in (
        f"start: a\na: %json {json.dumps(make_object(MANY))}\n",
        "start: " + '( "x" )? ' * MANY,
    ):
        with pytest.raises(InvalidRequest, match="too many optional"):
            compile_constraint("lark", source)


def compile_constraint(kind: Any, source: str) -> None:
    pieces = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    compiler = ConstraintCompiler(lambda: build_tokenizer(pieces, ends=[256]))
    compiler.compile(Constraint(kind, source))


@pytest.mark.parametrize("kind", ["json_schema", "gbnf"])
def test_a_constraint_with_too_many_choices_is_not_compiled(kind: str) -> None:
    many = "|".join('"a"' for _ in range(MANY + 1))
    source = json.dumps(make_object(MANY)) if kind == "json_schema" else f"root ::= {many}"
    with pytest.raises(InvalidRequest, match="too many"):
        compile_constraint(kind, source)


def test_what_llguidance_gives_up_on_at_the_first_tokens_is_refused_before_it_is_queued() -> None:
    with pytest.raises(InvalidRequest, match="invalid json schema"):
        compile_constraint("json_schema", json.dumps(make_object(1000)))


def test_a_usual_large_schema_is_compiled() -> None:
    compile_constraint("json_schema", json.dumps(make_object(300)))
