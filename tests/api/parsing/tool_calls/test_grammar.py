"""The grammar of a call accepts the call as the model writes it, and no call of another type."""

from __future__ import annotations

from typing import Any

import llguidance
import pytest

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.call_grammar import describe_calls
from services.api.parsing.tool_calls.detect import DIALECTS
from services.api.parsing.tool_calls.shapes.grammar import JsonPart, build_grammar
from tests.api.parsing.reading import calls_of, join
from tests.api.parsing.tool_calls.forms import TOOLS, write_answer

BYTES = llguidance.LLTokenizer("byte")
BY_NAME: dict[str, ToolDialect] = {dialect.name: dialect for dialect in DIALECTS}
ONE_CALL = {"harmony", "functionary-v3.2"}
NAME, SCHEMA = "get_weather", TOOLS["get_weather"]
FULL = {
    "city": 'Zürich "x"',
    "limit": 3,
    "ratio": 0.5,
    "hot": True,
    "ids": [1, 2],
    "near": {"name": "x", "at": [1.5], "deep": {"ok": True}},
}


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, FULL], ids=["required", "all"])
@pytest.mark.parametrize("name", BY_NAME)
def test_the_grammar_accepts_the_models_own_form(name: str, arguments: dict[str, Any]) -> None:
    if name in NOT_JSON:
        arguments = {key: arguments[key] for key in arguments if key in ("city", "limit", "ratio")}
    text = write_call(name, arguments)
    matcher = open_grammar(BY_NAME[name].describe_call(NAME, SCHEMA))

    accepted = matcher.try_consume_tokens(list(text.encode()))

    assert (text.encode()[:accepted].decode(errors="replace"), matcher.is_accepting()) == (
        text,
        True,
    )


@pytest.mark.parametrize("name", BY_NAME)
def test_the_grammar_rejects_a_value_of_another_type(name: str) -> None:
    text = write_call(name, {"city": "Paris", "limit": [77]})
    matcher = open_grammar(BY_NAME[name].describe_call(NAME, SCHEMA))

    assert matcher.try_consume_tokens(list(text.encode())) < text.encode().index(b"77") + 1


@pytest.mark.parametrize("name", BY_NAME)
def test_the_grammar_starts_with_the_trigger(name: str) -> None:
    trigger = BY_NAME[name].trigger
    text = write_call(name, {"city": "Paris"})

    assert text.startswith(trigger)


def test_special_tokens_are_referred_to() -> None:
    grammar = BY_NAME["hermes"].describe_call("f-1", {"type": "object"}, ["<tool_call>", "[X]"])

    assert ': <tool_call> "\\n{\\"name\\": \\"f-1\\", ' in grammar


def test_a_special_token_that_is_no_tag_has_a_quoted_name() -> None:
    grammar = BY_NAME["mistral"].describe_call("f", {}, ["[TOOL_CALLS]", "[ARGS]"])

    assert 'call_f: <%5BTOOL_CALLS%5D> "f" <%5BARGS%5D> part_0_call_f' in grammar


def test_a_special_token_ends_a_text() -> None:
    grammar = BY_NAME["glm4"].describe_call(
        "f", {"properties": {"a": {"type": "string"}}, "required": ["a"]}, ["</arg_value>"]
    )

    assert "part_0_call_f </arg_value>" in grammar
    assert "\npart_0_call_f: /(.|\\n)*/\n" in grammar


def test_rules_are_named_after_the_function() -> None:
    grammar = build_grammar("get_wetter", ["a", JsonPart({"type": "null"})])

    assert grammar.splitlines() == [
        "start: call_get_wetter",
        'call_get_wetter: "a" part_0_call_get_wetter',
        'part_0_call_get_wetter: %json {"type": "null"}',
    ]


def test_functions_with_similar_names_have_different_rules() -> None:
    names = ["get", "Get", "a-b", "a_b", "a.b", "get_0"]
    rules = {build_grammar(name, ["x"]).splitlines()[0] for name in names}

    assert len(rules) == len(names)


@pytest.mark.parametrize("name", BY_NAME)
def test_several_calls_are_joined_so_that_they_are_read_back(name: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = {"get_weather": schema, "NAME": schema, "ARGUMENTS-2": schema}
    described = dict.fromkeys(tools, (schema, True))
    text = "\n".join(
        write_answer(name, [[(each, {"city": "X"})]]).removeprefix("<|message_sep|>").strip()
        for each in (list(tools)[:1] if name in ONE_CALL else tools)
    )
    matcher = open_grammar(describe_calls(BY_NAME[name], described, (), has_several=True))
    accepted = matcher.try_consume_tokens(list(text.encode()))
    parser = BY_NAME[name].open(tools)
    answer = join([*parser.feed(text), *parser.finish()])

    assert (text.encode()[:accepted].decode(errors="replace"), matcher.is_accepting()) == (
        text,
        True,
    )
    assert len(calls_of(answer)) == text.count("X")


# They write nested values in forms of their own; the grammar writes JSON, which they read as well.
NOT_JSON = {"functiongemma", "gemma4", "lfm2", "minimax-m3"}
NESTED = {
    "functiongemma": (
        "<start_function_call>call:get_weather{city:<escape>X<escape>,"
        'near:{"name": "a \\"b\\""}}<end_function_call>'
    ),
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>X<|"|>,near:{"name": "a \\"b\\""}}<tool_call|>',
    "lfm2": '<|tool_call_start|>[get_weather(city="X", near={"name": "a \\"b\\""})]<|tool_call_end|>',
    "minimax-m3": (
        ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>X'
        ']<]minimax[>[</city>]<]minimax[>[<near>{"name": "a \\"b\\""}]<]minimax[>[</near>'
        "]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>"
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_json_inside_another_form_is_written_and_read(name: str) -> None:
    matcher = open_grammar(BY_NAME[name].describe_call(NAME, SCHEMA))
    text = NESTED[name]

    accepted = matcher.try_consume_tokens(list(text.encode()))
    parser = BY_NAME[name].open(TOOLS)
    answer = join([*parser.feed(text), *parser.finish()])

    assert text[:accepted] == text
    assert calls_of(answer) == [(NAME, {"city": "X", "near": {"name": 'a "b"'}})]


ODD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "unit": {"type": "string", "enum": ["m", "k m"]},
        "size": {"$ref": "#/$defs/size"},
        "note": {"type": ["string", "null"]},
        "any": {},
        "all": True,
    },
    "required": ["unit", "size", "note", "any", "all"],
    "$defs": {"size": {"type": "integer"}},
}


@pytest.mark.parametrize("name", BY_NAME)
def test_what_the_grammar_of_an_odd_schema_accepts_is_read_as_meant(name: str) -> None:
    arguments = {"unit": "k m", "size": 12, "note": "x", "any": "y", "all": "z"}
    text = write_answer(name, [[(NAME, arguments)]]).removeprefix("<|message_sep|>").strip()
    for letter in "xyz":  # what may be more than a string is JSON there
        for quote in ('<|"|>', "<escape>"):
            text = text.replace(f"{quote}{letter}{quote}", f'"{letter}"')
    matcher = open_grammar(BY_NAME[name].describe_call(NAME, ODD))

    accepted = matcher.try_consume_tokens(list(text.encode()))
    parser = BY_NAME[name].open({NAME: ODD})
    answer = join([*parser.feed(text), *parser.finish()])

    assert (text.encode()[:accepted].decode(), matcher.is_accepting()) == (text, True)
    assert calls_of(answer) == [(NAME, arguments)]


def write_call(name: str, arguments: dict[str, Any]) -> str:
    text = write_answer(name, [[(NAME, arguments)]])
    return text.removeprefix("<|message_sep|>").strip()


def open_grammar(grammar: str) -> Any:
    assert llguidance.LLMatcher.validate_grammar(grammar, BYTES) == ""
    return llguidance.LLMatcher(BYTES, grammar)
