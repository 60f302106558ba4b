"""Untrusted templates render as in other software, and are stopped when they exceed a limit."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.template import MAX_SOURCE, ChatTemplate
from tests.conftest import SHARED

HELLO: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLLECTION = SHARED / "data" / "chat-templates"


def rendered(source: str, **variables: Any) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(HELLO, **variables)


def test_a_conversation_is_rendered_by_the_template() -> None:
    assert rendered(CHATML) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_generation_prompt_can_be_left_out() -> None:
    assert rendered(CHATML, add_generation_prompt=False).endswith("Hello<|im_end|>\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}", "<s>|</s>"),
        ("{{ tools is defined }}", "False"),
        ("{{ {'b': 1, 'a': '<é>'} | tojson }}", '{"b": 1, "a": "<é>"}'),
        ("{{ [1, 2] | tojson(indent=2) }}", "[\n  1,\n  2\n]"),
        ("{{ messages | map(attribute='role') | tojson }}", '["system", "user"]'),
        ("{{ ('{\"a\": [1]}' | from_json).a[0] }}", "1"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% generation %}kept{% endgeneration %}", "kept"),
        ("{% set l = [] %}{% do l.append(1) %}{{ l }}", "[1]"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') ~ m('b') }}", "<a><b>"),
        ("{{ ['a', 'b'] | join(', ') }}{{ messages | join('-', attribute='role') }}", "a, bsystem-user"),
        ("{% if true %}\n  x\n{% endif %}", "  x\n"),
        ("{{ enable_thinking }}", "off"),
        ("{{ 'a,b'.split(',')[-1].strip().upper() }}", "B"),
        ("{{ '%s has %05d' % ('x', 7) }}", "x has 00007"),
        ("{{ 'a{}b'.format(1) }}", "a1b"),
        ("{{ 2 ** 10 + 3 * 4 }}", "1036"),
        ("{{ 'ab' * 3 }}", "ababab"),
    ],
)  # fmt: skip
def test_what_real_templates_use_works(source: str, expected: str) -> None:
    assert rendered(source, enable_thinking="off") == expected


def test_a_template_gets_tools_and_functions() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    template = ChatTemplate("{{ tools[0].function.name }} {{ functions }}")

    assert template.render(HELLO, tools) == "look " + json.dumps(tools, indent=4)


def test_a_template_that_changes_lists_does_not_change_the_messages() -> None:
    messages = [{"role": "user", "content": "x", "parts": [1]}]

    text = ChatTemplate("{% do messages[0].parts.append(2) %}{{ messages[0].parts }}").render(
        messages
    )

    assert (text, messages[0]["parts"]) == ("[1, 2]", [1])


def test_a_refusal_of_the_template_reaches_the_client() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    ["{{", "{% if %}", "{% nonsense %}", "{{ x | nosuchfilter }}", "{% include 'x' %}",
     "{% import 'x' as y %}", "{% extends 'x' %}", "{{" + "(" * 5000 + ")" * 5000 + "}}",
     "{% for x in y %}" * 200 + "{% endfor %}" * 200, "x" * (MAX_SOURCE + 1)],
    ids=range(10),
)  # fmt: skip
def test_an_invalid_template_is_refused_when_compiling(source: str) -> None:
    with pytest.raises(InvalidModelFile):
        ChatTemplate(source)


HOSTILE = {
    "python internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "internals through attr": "{{ ('' | attr('__class__')).__mro__ }}",
    "internals through format": "{{ '{0.__class__.__mro__}'.format('') }}{{ undefined.x }}",
    "globals": "{{ raise_exception.__globals__['json'] }}",
    "undefined": "{{ nothing.at.all }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "doubling macros": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for x in [[1]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "repetition": "{{ 'a' * 10 ** 9 }}",
    "repeated list": "{{ [0] * 10 ** 9 }}",
    "powers": "{{ 9 ** 9 ** 9 }}{{ 9 ** 99999999 }}",
    "squaring": "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}"
    "{% endfor %}{{ ns.n }}",
    "doubling with ~": "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "doubling with +": "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
    "doubling a list": "{% set l = [1] %}" + "{% do l.extend(l) %}" * 40,
    "many long values": "{% set l = [] %}{% for i in range(9999) %}{% do l.append('a' * 9999999 ~ i) %}"
    "{% endfor %}",
    "a long prompt": "{% for i in range(99999) %}{{ 'a' * 4000 }}{% endfor %}",
    "padding": "{{ 'a'.ljust(10 ** 9) }}",
    "centred": "{{ 'a' | center(10 ** 9) }}",
    "indented": "{{ ('\\n' * 1000000) | indent(4000) }}",
    "a wide format": "{{ '%0999999999d' % 1 }}",
    "a wide format filter": "{{ '%0999999999d' | format(1) }}",
    "a wide format method": "{{ '{:>999999999}'.format(1) }}",
    "a width from an argument": "{{ '%*d' % (999999999, 1) }}",
    "replacing nothing": "{{ ('a' * 1000000).replace('', 'b' * 1000) }}",
    "joining": "{{ ('b' * 1000000).join(['x'] * 100000) }}",
    "the join filter": "{{ (range(90000) | list) | join('c' * 1000000) }}",
    "indented json": "{{ [1] | tojson(indent=999999999) }}",
    "lipsum": "{{ lipsum(n=9999) }}",
    "mapped": "{{ ('x' * 9999999) | map('upper') | list | length }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped(name: str) -> None:
    template = ChatTemplate(HOSTILE[name])

    with pytest.raises(InvalidModelFile) as caught:
        template.render(HELLO, max_seconds=0.3)

    assert "/" not in caught.value.message


@pytest.mark.parametrize("method", ["append", "pop", "clear", "update"])
def test_a_template_cannot_change_the_messages(method: str) -> None:
    messages = [{"role": "user", "content": "x"}]

    with contextlib.suppress(InvalidModelFile):
        ChatTemplate(f"{{{{ messages.{method}(messages[0]) }}}}").render(messages)

    assert messages == [{"role": "user", "content": "x"}]


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_all_templates_of_the_collection_compile_and_render() -> None:
    sources = {path.name: path.read_text() for path in sorted(COLLECTION.glob("*.jinja"))}
    assert len(sources) == 70
    refused = []
    for name, source in sources.items():
        template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
        try:
            assert "Hello" in template.render(HELLO)
        except InvalidRequest:
            refused.append(name)

    assert refused == ["google-gemma-2-2b-it.jinja"]  # it refuses system messages
