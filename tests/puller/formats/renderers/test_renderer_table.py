"""Our prompt formats show every conversation, and agree with what the makers published."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.api.prompts.render import Conversation
from services.puller.formats.renderers.renderer_table import FORMATS, find_template
from tests.api.parsing.tool_calls import round_trips
from tests.api.prompts.rendering import make_manifest, render, render_prompt
from tests.api.prompts.template_cases import (
    ANSWER,
    CASES,
    COLLECTION,
    MORE,
    RESULT,
    SYSTEM,
    TOOLS,
    USER,
    call,
    check,
    make_call,
)
from tests.puller.formats.renderers.format_table import format_table, has_tools, read_own
from tests.repository.documents import DOCS

needs_collection = pytest.mark.skipif(
    not COLLECTION.is_dir(), reason="the collection of templates is not here"
)
# By renderer: the published template of its family.
PUBLISHED = {
    "deepseek3.1": "deepseek-ai-DeepSeek-V3.1",
    "gemma4-large": "google-gemma-4-31B-it",
    "gemma4-small": "google-gemma-4-31B-it",
    "glm-4.7": "GLM-4.7-Flash",
    "lfm2": "LFM2-8B-A1B",
    "lfm2-thinking": "LFM2.5-8B-A1B",
    "nemotron-3-nano": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "poolside-v1": "poolside-Laguna-S-2.1",
    "qwen3-coder": "Qwen3-Coder",
    "qwen3-vl-instruct": "Qwen-Qwen3-0.6B",
    "qwen3-vl-thinking": "Qwen-Qwen3-0.6B",
    "qwen3.5": "Qwen3.5-4B",
}
# Where a published template and its model differ, or one file stands for several models: by
# renderer, what to replace at the end or anywhere in the published prompt.
DIFFERENCES: dict[str, tuple[str, str]] = {
    # The model card and DeepSeek's own template have no <think>; llama.cpp's copy of it has.
    "deepseek3.1": ("<think></think>", "</think>"),
    # A default system prompt of the maker's, which an empty one from the client turns off.
    "poolside-v1": (r"(?<=<system>)You are a helpful, [^#<]*", ""),
    "gemma4-small": (re.escape("<|channel>thought\n<channel|>"), ""),
    # Qwen3 thinks when it likes to; the thinking Qwen3-VL always does.
    "qwen3-vl-thinking": (r"(<\|im_start\|>assistant\n)$", r"\1<think>\n"),
}
REASON = {**ANSWER, "reasoning_content": "Reason", "thinking": "Reason"}
PLAIN: dict[str, dict[str, Any]] = {
    "question": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, ANSWER, MORE]},
    "all": {"messages": [SYSTEM, USER, ANSWER, MORE, ANSWER, MORE]},
    "unfinished": {"messages": [USER, ANSWER, MORE], "add_generation_prompt": False},
}
SWITCHED = ("deepseek3.1", "gemma4-large", "glm-4.7", "nemotron-3-nano", "poolside-v1", "qwen3.5")
KEEPS_REASON = ("gemma4-large", "glm-4.7", "nemotron-3-nano", "qwen3-vl-thinking", "qwen3.5")
# The published LFM2 shows no calls, and LFM2.5's does not escape the quotes in them.
CALLED = tuple(name for name in PUBLISHED if not name.startswith("lfm2"))
DEFINITIONS = r"<available_tools>.*?</available_tools>|<tools>\n.*?\n</tools>|<\|tool>.*<tool\|>|List of tools: .*?(?=<\|im_end\|>)"


def render_published(renderer: str, **conversation: Any) -> str:
    text = render((COLLECTION / f"{PUBLISHED[renderer]}.jinja").read_text(), **conversation)
    pattern, replacement = DIFFERENCES.get(renderer, ("$^", ""))
    return re.sub(pattern, replacement, text)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("renderer", FORMATS)
def test_our_template_renders_every_case(renderer: str, case: str) -> None:
    assert check(read_own(renderer), case) == "yes"


@pytest.mark.parametrize("renderer", FORMATS)
def test_our_template_shows_tools_and_calls_natively(renderer: str) -> None:
    traits = round_trips.read_traits(read_own(renderer))

    assert (traits.failure, traits.system, has_tools(traits)) == (None, True, True)


@pytest.mark.parametrize("case", round_trips.CASES)
@pytest.mark.parametrize("renderer", FORMATS)
def test_calls_of_our_template_are_read_back(renderer: str, case: str) -> None:
    assert round_trips.check(read_own(renderer), case) == "yes"


@needs_collection
@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("renderer", PUBLISHED)
def test_without_tools_our_prompt_is_the_published_one(renderer: str, case: str) -> None:
    assert render(read_own(renderer), **PLAIN[case]) == render_published(renderer, **PLAIN[case])


@needs_collection
@pytest.mark.parametrize("is_thinking", [False, True])
@pytest.mark.parametrize("renderer", SWITCHED)
def test_thinking_is_switched_as_in_the_published_template(
    renderer: str, *, is_thinking: bool
) -> None:
    conversation = {"messages": [SYSTEM, USER], "is_thinking": is_thinking}

    assert render(read_own(renderer), **conversation) == render_published(renderer, **conversation)


@needs_collection
@pytest.mark.parametrize("renderer", KEEPS_REASON)
def test_thoughts_are_kept_and_dropped_as_in_the_published_template(renderer: str) -> None:
    calling = {**call(make_call({"city": "Rome"})), "reasoning_content": "Newer"}
    messages = [USER, REASON, MORE, calling, RESULT]
    prompt = render(read_own(renderer), messages=messages, tools=TOOLS)

    assert ("Reason" in prompt, "Newer" in prompt) == (False, True)
    assert from_question(prompt) == from_question(
        render_published(renderer, messages=messages, tools=TOOLS)
    )


@needs_collection
@pytest.mark.parametrize("case", ["tools", "call", "calls", "null content", "integers", "nested"])
@pytest.mark.parametrize("renderer", CALLED)
def test_calls_and_results_stand_where_the_published_template_has_them(
    renderer: str, case: str
) -> None:
    conversation, _ = CASES[case]
    prompt = render(read_own(renderer), **conversation)

    assert from_question(prompt) == from_question(render_published(renderer, **conversation))


@needs_collection
@pytest.mark.parametrize("renderer", [name for name in PUBLISHED if name != "deepseek3.1"])
def test_definitions_of_tools_are_those_of_the_published_template(renderer: str) -> None:
    conversation, _ = CASES["tools"]
    ours, theirs = (
        (text, re.findall(DEFINITIONS, text, re.DOTALL))
        for text in (
            render(read_own(renderer), **conversation),
            render_published(renderer, **conversation),
        )
    )

    assert ours[1] == theirs[1] != []
    assert is_system_first(*ours) == is_system_first(*theirs)


def test_definitions_of_tools_for_deepseek_are_those_of_its_model_card() -> None:
    prompt = render(read_own("deepseek3.1"), messages=[SYSTEM, USER], tools=TOOLS[:1])

    assert prompt.startswith("<s>SystemWords\n\n## Tools\n")
    assert "\n\n### get_weather\nDescription: Weather of a city.\n\nParameters: {" in prompt


def test_nemotron_3_5_ends_a_thought_without_lines() -> None:
    prompt = render(read_own("nemotron-3.5-nano"), messages=[USER, REASON])

    assert "<think>\nReason</think>AnswerWords<|im_end|>" in prompt


def test_functiongemma_gets_the_form_of_googles_page() -> None:
    conversation, _ = CASES["call"]
    prompt = render(read_own("functiongemma"), **{**conversation, "tools": TOOLS[1:]})

    assert prompt.startswith("<s><start_of_turn>developer\nYou can call these functions:")
    assert prompt.partition("functions:")[2] == (
        "<start_function_declaration>declaration:get_time{"
        "description:<escape>Weather of a city.<escape>,parameters:{properties:{"
        "city:{description:<escape>Which.<escape>,type:<escape>STRING<escape>},"
        "ids:{description:<escape>Which.<escape>,items:{type:<escape>INTEGER<escape>},"
        "type:<escape>ARRAY<escape>},"
        "limit:{description:<escape>How many.<escape>,type:<escape>INTEGER<escape>}},"
        "required:[<escape>city<escape>],type:<escape>OBJECT<escape>}}<end_function_declaration>"
        "<end_of_turn>\n<start_of_turn>user\nUserWords<end_of_turn>\n<start_of_turn>model\n"
        "<start_function_call>call:get_weather{city:<escape>CityWords<escape>}<end_function_call>"
        "<start_function_response>response:get_weather{value:<escape>ResultWords<escape>}"
        "<end_function_response>"
    )


@pytest.mark.parametrize("renderer", FORMATS)
def test_our_template_continues_an_answer(renderer: str) -> None:
    prompt = render(read_own(renderer), messages=[USER, ANSWER], continue_final_message=True)

    assert prompt.endswith("AnswerWords")


@pytest.mark.parametrize("renderer", FORMATS)
def test_protecting_tokens_does_not_change_our_prompt(renderer: str) -> None:
    source = read_own(renderer)
    # As if every tag were a control token.
    tokens = tuple(sorted(set(re.findall(r"<[^\s<>{}'\"]{1,40}>", source))))
    thought = {"role": "assistant", "content": "<think>Hidden</think>AnswerWords"}
    answer = thought if "</think>" in tokens else ANSWER
    conversation, _ = CASES["calls"]
    given = Conversation(
        messages=[SYSTEM, USER, answer, *conversation["messages"]], tools=conversation["tools"]
    )
    plain, protected = (
        render_prompt(make_manifest(source, control_tokens=control), given).pieces
        for control in ((), tokens)
    )

    assert len(tokens) >= 3
    assert [(p.text, p.literal) for p in protected] == [(plain[0].text, False)]


@pytest.mark.parametrize("renderer", ["lfm2", "lfm2-thinking"])
def test_lfm2_shows_a_call_with_quotes_in_it(renderer: str) -> None:
    messages = [USER, call(make_call({"city": 'L\'"A"', "limit": 3})), RESULT]
    prompt = render(read_own(renderer), messages=messages, tools=TOOLS)

    shown = '<|tool_call_start|>[get_weather(city="L\'\\"A\\"", limit=3)]<|tool_call_end|>'
    assert f"<|im_start|>assistant\n{shown}<|im_end|>\n<|im_start|>tool\n" in prompt


@pytest.mark.parametrize(
    ("count", "size"), [(None, "small"), (8_000_000_000, "small"), (26_000_000_000, "large")]
)
def test_gemma4_stands_for_the_format_of_its_size(count: int | None, size: str) -> None:
    assert find_template("gemma4", count) == read_own(f"gemma4-{size}")


def test_an_unknown_renderer_has_no_template() -> None:
    assert find_template("tomorrow") is None


def test_the_page_has_the_table_of_our_formats() -> None:
    assert format_table() in (DOCS / "reference" / "chat-templates.md").read_text()


def from_question(prompt: str) -> str:
    """The prompt without definitions of tools and instructions: from the first question on."""
    return prompt[prompt.index("UserWords") :]


def is_system_first(prompt: str, definitions: list[str]) -> bool:
    return prompt.index("SystemWords") < prompt.index(definitions[0])
