"""Whatever the grammar of a call lets a model write is read back as a call of its schema."""

from __future__ import annotations

import functools
import json
from typing import Any

import llguidance
import pytest
from hypothesis import strategies as st

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.call_grammar import describe_calls
from services.api.parsing.tool_calls.detect import DIALECTS
from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_FUNCTION_NAME
from tests.api.parsing.reading import join, read
from tests.api.parsing.tool_calls.walks import BYTES, walk
from tests.json_schemas.strategies import (
    NAMES,
    PATTERNS,
    Schema,
    draw_many,
    objects,
    parameters,
    strings,
)
from tests.json_schemas.validator import validate

BY_NAME: dict[str, ToolDialect] = {dialect.name: dialect for dialect in DIALECTS}
# They write each parameter in a place of its own.
BY_PARAMETER = [
    *("qwen3-coder", "seed-oss", "glm4", "hy3", "minimax-m2", "muse", "minicpm5", "kimi-k3"),
    *("deepseek-v3.2", "deepseek-v4", "minimax-m3", "lfm2", "gemma4", "functiongemma"),
]


@functools.cache
def list_schemas() -> list[Schema]:
    return draw_many(parameters(), 20)


@functools.cache
def list_texts() -> list[Schema]:
    """Objects of texts that a tag dialect can bind, too."""
    drawn = draw_many(objects(strings(), ["a", "b-c"]), 16)
    unbound = ('"ipv6"', json.dumps(PATTERNS[-1]))
    return [schema for schema in drawn if not any(text in json.dumps(schema) for text in unbound)]


def check(dialect: ToolDialect, schema: Schema, seed: int, name: str = "f") -> Any:
    """The arguments of a random call."""
    grammar = describe_calls(dialect, {name: (schema, True)}, (), has_several=False)
    assert llguidance.LLMatcher.validate_grammar(grammar, BYTES) == "", grammar
    text = walk(grammar, seed)
    answer = join(read(dialect.open({name: schema}), [text]))
    assert [(call.name, call.is_whole) for call in answer.calls] == [(name, True)], text
    return validate(answer.calls[0].arguments, schema)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_call_of_any_schema_is_read_as_it_is_forced(name: str) -> None:
    count = 0
    for seed, schema in enumerate(list_schemas()):
        try:
            check(BY_NAME[name], schema, seed)
        except InvalidRequest:
            continue
        count += 1

    assert count >= 5


@pytest.mark.parametrize("name", BY_PARAMETER)
def test_a_text_is_bound_where_it_has_no_quotes(name: str) -> None:
    for seed, schema in enumerate(list_texts()):
        check(BY_NAME[name], schema, seed)


CHOICES: dict[str, Schema] = {
    "constant": {"const": "a b"},
    "typed constant": {"type": "string", "const": "x"},
    "reference": {"$ref": "#/$defs/colour"},
    "or null": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]},
    "in a union": {"anyOf": [{"const": "a"}, {"$ref": "#/$defs/colour"}]},
    "text or null": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    "types": {"type": ["string", "null"], "pattern": "^[a/]{2}$"},
    "line separators": {"enum": ["a\u2028b", "a\x85b", "\x0c"]},
}


@pytest.mark.parametrize("schema", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize("name", BY_PARAMETER)
def test_a_text_is_one_of_its_choices(name: str, schema: Schema) -> None:
    colours = {"colour": {"type": "string", "enum": ["red", "light blue"]}}
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": colours}
    for seed in range(4):
        check(BY_NAME[name], whole, seed)


ROOTS: dict[str, Schema] = {
    "reference": {
        "$ref": "#/definitions/args",
        "definitions": {
            "args": {
                "type": "object",
                "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
                "required": ["a"],
                "additionalProperties": False,
            }
        },
    },
    "required without a property": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": {"type": "string"},
    },
}

ROOTS["recursive"] = {
    "type": "object",
    "properties": {
        "v": {"type": "integer", "minimum": 0, "maximum": 9},
        "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        "same": {"$ref": "#/properties/v"},
    },
    "required": ["v", "kids"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("schema", ROOTS.values(), ids=ROOTS.keys())
@pytest.mark.parametrize("name", ["hermes", *BY_PARAMETER])
def test_what_is_required_is_written(name: str, schema: Schema) -> None:
    for seed in range(4):
        check(BY_NAME[name], schema, seed)


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("name", BY_PARAMETER)
def test_an_odd_name_of_a_parameter_is_written_or_refused(name: str, key: str) -> None:
    schema = {"type": "object", "properties": {key: {"type": "boolean"}}, "required": [key]}
    try:
        arguments = check(BY_NAME[name], schema, seed=1)
    except InvalidRequest as error:
        assert "cannot be written in this model's calls" in error.message  # noqa: PT017
    else:
        assert list(arguments) == [key]


ODD_NAMES = ["f" * MAX_FUNCTION_NAME, "a.b", "a:b", "a:1", "a/b", "a-b", "größe", "functions.f"]


@pytest.mark.parametrize("function", ODD_NAMES)
@pytest.mark.parametrize("name", BY_NAME)
def test_every_name_that_a_function_may_have_is_read(name: str, function: str) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}

    assert check(BY_NAME[name], schema, seed=1, name=function) == {}


def test_a_strict_text_that_cannot_be_bound_is_refused_by_its_keyword() -> None:
    bound = {"type": "string", "pattern": "a|b"}
    schema = {"type": "object", "properties": {"a": bound}}
    described = BY_NAME["glm4"], {"f": (schema, True)}, ()
    with pytest.raises(InvalidRequest, match=r"^pattern cannot be enforced"):
        describe_calls(*described, has_several=False)

    describe_calls(BY_NAME["glm4"], {"f": (schema, False)}, (), has_several=False)


@pytest.mark.parametrize("name", BY_PARAMETER)
def test_a_long_schema_is_not_copied_to_hundreds_of_parameters(name: str) -> None:
    schema = {
        "type": "object",
        "properties": {f"p{number}": {"$ref": "#/$defs/a"} for number in range(200)},
        "$defs": {"a": {"enum": list(range(1000))}, "b": {"description": "x" * 10_000}},
    }
    with pytest.raises(InvalidRequest, match="refer too often to a long schema"):
        describe_calls(BY_NAME[name], {"f": (schema, True)}, (), has_several=False)


@pytest.mark.parametrize(
    "length", [{"minLength": 3000}, {"maxLength": 1 << 20}, {"maxLength": True}]
)
def test_a_length_that_cannot_be_bound_is_ignored_unless_strict(length: dict[str, int]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", **length}}}
    loose = describe_calls(BY_NAME["glm4"], {"f": (schema, False)}, (), has_several=False)
    with pytest.raises(InvalidRequest, match="Length cannot be enforced"):
        describe_calls(BY_NAME["glm4"], {"f": (schema, True)}, (), has_several=False)

    assert "/(.|\\n)*/" in loose


@pytest.mark.parametrize(
    ("day", "is_accepted"),
    [
        *(("2024-01-31", True), ("2023-04-30", True), ("2024-02-29", True), ("2000-02-29", True)),
        *(("2023-02-29", False), ("1900-02-29", False), ("2023-04-31", False)),
    ],
)
def test_a_text_of_a_date_is_any_day_that_there_is(day: str, is_accepted: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": "date"}},
        "required": ["a"],
    }
    grammar = describe_calls(BY_NAME["minicpm5"], {"f": (schema, True)}, (), has_several=False)
    text = f'<function name="f"><param name="a">{day}</param></function>'
    matcher = llguidance.LLMatcher(BYTES, grammar)

    assert (matcher.try_consume_tokens(list(text.encode())) == len(text)) == is_accepted


def test_alternatives_that_refer_to_each_other_end() -> None:
    double = {
        f"a{number}": {"anyOf": [{"$ref": f"#/$defs/a{(number + 1) % 40}"}] * 2}
        for number in range(40)
    }
    for schema in ({"anyOf": [{"$ref": "#/properties/x"}]}, {"$ref": "#/$defs/a0"}):
        whole = {"type": "object", "properties": {"x": schema}, "$defs": double}
        grammar = describe_calls(BY_NAME["glm4"], {"f": (whole, True)}, (), has_several=False)
        assert "(.|\\n)*" in grammar


def test_schemas_are_generated_again_as_they_were() -> None:
    assert draw_many(st.integers(), 5) == draw_many(st.integers(), 5)
