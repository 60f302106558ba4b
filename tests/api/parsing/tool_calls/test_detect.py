from __future__ import annotations

import json
import re
from typing import Any

import pytest

from services.api.parsing.tool_calls.detect import (
    _RULES,
    DIALECTS,
    GENERIC,
    choose_dialect,
    find_dialect,
)
from services.api.parsing.tool_calls.differential import find_by_rendering
from services.api.prompts.adapt import adapt_conversation
from services.shared.templates.traits import TemplateTraits
from tests.api.parsing.reading import calls_of, join, read
from tests.api.parsing.tool_calls import round_trips
from tests.api.parsing.tool_calls.forms import TOOLS
from tests.api.prompts.template_cases import COLLECTION
from tests.repository.documents import DOCS

SHOWS_ALL = TemplateTraits(failure=None, tools=True, tool_calls=True, tool_results=True)
SHOWS_NOTHING = TemplateTraits(failure=None)


def render_with(form: str, *, turn_ends: str = "<|end|>\n") -> Any:
    """A template that writes calls in this form, with N and A."""

    def render(messages: Any) -> str:
        written = ""
        for message in messages:
            written += f"<|{message['role']}|>\n{message['content']}"
            for call in message.get("tool_calls", ()):
                function = call["function"]
                written += form.replace("@N", function["name"]).replace("@A", function["arguments"])
            written += turn_ends
        return written

    return render


@pytest.mark.parametrize(
    "form",
    [
        '<call>\n{"name": "@N", "arguments": @A}\n</call>',
        '\n[CALLS][{"name": "@N", "arguments": @A}]',
        '<<{ "tool_name" : "@N", "parameters": @A }>>',
        '{"name": "@N", "parameters": @A}',
        '<calls>[{"function": "@N", "arguments": @A, "id": "abcdefgh1"}]</calls>',
        "<fn>@N</fn><args>@A</args>",
        "CALL: @N\n@A",
    ],
)
def test_the_form_of_an_unknown_template_is_found(form: str) -> None:
    dialect = find_by_rendering(render_with(form))
    assert dialect is not None
    text = "Look.\n" + form.replace("@N", "get_time").replace("@A", '{"city": "Rome"}')

    answer = join(read(dialect.open(TOOLS), text))

    assert calls_of(answer) == [("get_time", {"city": "Rome"})]
    assert answer.content == "Look."
    assert json.dumps("get_time")[1:-1] in dialect.describe_call("get_time", {})


@pytest.mark.parametrize(
    "form",
    [
        "",
        "@N",
        "@A",
        "@N(@A)"[:2],
        "<call>@N with city</call>",
        pytest.param(f"<{'x' * 2000}>@N[[@A]]", id="a marker that is too long"),
        pytest.param(f"<fn>@N{'{' * 2000}@A]]", id="much between the name and the arguments"),
    ],
)
def test_a_template_without_a_known_form_has_no_dialect(form: str) -> None:
    assert find_by_rendering(render_with(form)) is None


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
@pytest.mark.parametrize(
    "name",
    [
        "Bielik-11B-v3.0-Instruct",
        "GigaChat3.1-10B-A1.8B",
        "Kimi-K2-Instruct",
        "MiMo-VL",
        "MiniMax-M1",
        "Qwen-Qwen2.5-7B-Instruct",
        "meetkai-functionary-medium-v3.1",
        "meta-llama-Llama-3.1-8B-Instruct",
        "unsloth-mistral-Devstral-Small-2507",
        "upstage-Solar-Open-100B",
    ],
)
def test_real_forms_are_found_by_rendering(name: str) -> None:
    template = (COLLECTION / f"{name}.jinja").read_text()
    dialect = find_by_rendering(lambda messages: round_trips.render(template, messages))
    assert dialect is not None
    tools: dict[str, Any] = {"probe_function": {}}
    text = dialect.describe_call("probe_function", {})  # the grammar has the form's own texts
    assert "probe_function" in text

    answer = join(read(dialect.open(tools), round_trips.cut_answer(template, PROBE)))

    assert calls_of(answer) == PROBE


PROBE: list[Any] = [("probe_function", {"city": "Paris"})]


def test_a_template_without_tools_gets_the_generic_form() -> None:
    messages, _ = adapt_conversation(
        [{"role": "user", "content": "x"}],
        [{"type": "function", "function": {"name": "get_time", "parameters": {}}}],
        SHOWS_NOTHING,
    )
    described = re.sub(r"<name>", '"NAME"', messages[0]["content"]).replace("<object>", "ARGUMENTS")

    assert choose_dialect("{{ messages }}", SHOWS_NOTHING) is GENERIC
    assert GENERIC.example in described


def test_a_template_that_shows_all_is_read_in_its_own_form() -> None:
    assert choose_dialect("[TOOL_CALLS]", SHOWS_ALL).name == "mistral-list"


def test_where_the_prompt_describes_the_generic_form_both_are_read() -> None:
    dialect = choose_dialect("<TOOLCALL>", SHOWS_NOTHING)
    own = '<TOOLCALL>[{"name": "get_time", "arguments": {}}]</TOOLCALL>'
    generic = '<tool_call>{"name": "get_time", "arguments": {"city": "X"}}</tool_call>'

    answer = join(read(dialect.open(TOOLS), own + "\n" + generic))

    assert (dialect.name, dialect.trigger) == ("hermes or nemotron-v2", "<tool_call>")
    assert calls_of(answer) == [("get_time", {}), ("get_time", {"city": "X"})]
    assert answer.content == ""
    assert dialect.describe_call("f", {}) == GENERIC.describe_call("f", {})


def test_where_only_earlier_calls_are_generic_the_models_own_form_comes_first() -> None:
    traits = TemplateTraits(failure=None, tools=True)

    assert choose_dialect("<TOOLCALL>", traits).name == "nemotron-v2 or hermes"


@pytest.mark.parametrize("texts", [texts for texts, _ in _RULES], ids=" ".join)
def test_every_dialect_reads_answers_to_a_prompt_of_the_generic_form(
    texts: tuple[str, ...],
) -> None:
    dialect = choose_dialect(" ".join(texts), SHOWS_NOTHING)

    answer = join(read(dialect.open(TOOLS), "<x> plain {text}"))

    assert answer.content == "<x> plain {text}"


def test_an_unknown_template_is_rendered() -> None:
    render = render_with('<call>{"name": "@N", "arguments": @A}</call>')

    dialect = choose_dialect("{{ unknown }}", SHOWS_ALL, render)

    assert (dialect.name, dialect.trigger) == ("found by rendering", "<call>")


def test_a_template_of_no_family_has_no_dialect() -> None:
    assert find_dialect("{{ messages }}") is None


def test_names_are_unique_and_the_page_counts_them() -> None:
    names = {dialect.name for dialect in DIALECTS}

    assert len(names) == len(DIALECTS)
    assert (
        f"The api reads {len(names)} of them" in (DOCS / "reference" / "tool-calls.md").read_text()
    )
