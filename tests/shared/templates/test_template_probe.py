"""The traits of a template are found by comparing renders."""

from __future__ import annotations

import pytest

from services.shared.templates.template import ChatTemplate
from services.shared.templates.template_probe import find_composed, probe
from services.shared.templates.traits import TemplateTraits
from tests.conftest import SHARED

COLLECTION = SHARED / "data" / "chat-templates"

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + PLAIN
)
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}{% endfor %}{% endfor %}"
)
TEXT_ARGUMENTS = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ 'call ' + c.function.arguments }}{% endfor %}{% endfor %}"
)
MENTIONS_TOOLS_ONLY = "{# tools <tool_call> #}" + PLAIN
SWITCHED = (
    PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
OPENED = PLAIN + "assistant: <think>\n"
PARTS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}"
)


def traits(source: str) -> TemplateTraits:
    return probe(ChatTemplate(source))


def test_a_plain_template_supports_system_messages_and_tool_results() -> None:
    assert traits(PLAIN) == TemplateTraits(failure=None, system=True, tool_results=True)


def test_a_template_that_refuses_system_messages_has_no_failure() -> None:
    found = traits(NO_SYSTEM)

    assert (found.failure, found.system) == (None, False)


def test_tools_are_supported_when_their_definitions_are_rendered() -> None:
    assert traits(TOOLS) == TemplateTraits(
        failure=None,
        system=True,
        tools=True,
        tool_calls=True,
        several_calls=True,
        tool_results=True,
        arguments_as_object=True,
    )


def test_a_template_may_need_arguments_as_text() -> None:
    found = traits(TEXT_ARGUMENTS)

    assert (found.tool_calls, found.arguments_as_object) == (True, False)


def test_a_comment_about_tools_adds_no_trait() -> None:
    assert traits(MENTIONS_TOOLS_ONLY) == traits(PLAIN)


def test_reasoning_is_found_by_its_switch_or_its_opening_tag() -> None:
    switched, opened = traits(SWITCHED), traits(OPENED)

    assert (switched.thinking, switched.thinking_switch) == (True, "enable_thinking")
    assert (opened.thinking, opened.opens_thinking) == (True, True)


def test_content_parts_are_supported_only_if_they_are_rendered() -> None:
    assert traits(PARTS).content_parts
    assert not traits(PLAIN).content_parts


@pytest.mark.parametrize(
    "source", ["{{ nothing.at.all }}", "always the same", "{{ raise_exception('no') }}"]
)
def test_a_template_that_cannot_render_a_question_has_a_failure(source: str) -> None:
    assert traits(source).failure


def test_tokens_that_a_template_puts_together_are_found() -> None:
    source = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}<|end|>{% endfor %}"
    tokens = ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>", "<|other|>")
    template = ChatTemplate(source, control_tokens=tokens, mark_prefix="\U000f0000")

    assert template.marked == ("<|end|>",)
    assert find_composed(template, traits(source), tokens) == (
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<|tool|>",
    )


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_the_traits_of_real_templates() -> None:
    found = {path.stem: traits(path.read_text()) for path in sorted(COLLECTION.glob("*.jinja"))}

    assert [name for name, t in found.items() if t.failure] == []
    assert [name for name, t in found.items() if not t.system] == ["google-gemma-2-2b-it"]
    assert sum(t.tools for t in found.values()) >= 60
    assert found["Qwen-Qwen3-0.6B"].thinking_switch == "enable_thinking"
    assert not found["Qwen-Qwen2.5-7B-Instruct"].thinking
    assert not found["meetkai-functionary-medium-v3.2"].arguments_as_object
