"""Templates render as in other software; what they write themselves can be marked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.templates.marks import build_mark
from services.shared.templates.template import MAX_SOURCE, ChatTemplate, TemplateFailed
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
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    given = {"messages": HELLO, "tools": None, "add_generation_prompt": True}
    return template.render(given | variables)


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

    text = rendered("{{ tools[0].function.name }} {{ functions }}", tools=tools)

    assert text == "look " + json.dumps(tools, indent=4)


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


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}{{ undefined.x }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ (messages | attr('append'))(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
    ids=["class", "attr", "format", "globals", "immutable", "endless recursion"],
)
def test_the_sandbox_refuses_what_no_template_needs(source: str) -> None:
    with pytest.raises(TemplateFailed):
        rendered(source)


def test_a_failure_names_the_line() -> None:
    with pytest.raises(TemplateFailed) as caught:
        rendered("a\n{% if true %}\n{{ nothing.at.all }}\n{% endif %}")

    assert (caught.value.kind, caught.value.line) == ("UndefinedError", 3)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<|a|>{{ messages[1].content }}</s>", "[a]Hello[/s]"),
        ("{{ '<|a|>' ~ messages[0].role }}", "[a]system"),
        ("{{ '\\x3c|a|>' }}", "[a]"),
        ("{{ eos_token }}{{ bos_token }}", "[/s]<s>"),
        ("{{ '<|' ~ 'a|>' }}", "<|a|>"),
        ("{{ typed }}", "<|a|></s>"),
        ("{{ typed.replace('|', '') }}", "<a></s>"),
        ("{{ '<|a|>' in typed }}", "False"),
        ("{{ '\"'|safe + typed[:1] }}<|a|>", '"&lt;[a]'),
    ],
)
def test_control_tokens_are_marked_in_what_the_template_writes(source: str, expected: str) -> None:
    tokens = ("<|a|>", "</s>", "<|never|>")
    template = ChatTemplate(
        source, bos_token="<s>", eos_token="</s>", control_tokens=tokens, mark_prefix="\U000f0000"
    )
    text = template.render({"messages": HELLO, "typed": "<|a|></s>"})
    for number, token in enumerate(template.marked, 1):
        text = text.replace(
            build_mark("\U000f0000", number), {"<|a|>": "[a]", "</s>": "[/s]"}[token]
        )

    assert text == expected


def test_a_refusal_shows_no_mark() -> None:
    template = ChatTemplate(
        "{{ raise_exception('no <|a|> here') }}",
        control_tokens=("<|a|>",),
        mark_prefix="\U000f0000",
    )

    with pytest.raises(InvalidRequest, match=r"no <\|a\|> here"):
        template.render({"messages": HELLO})


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_all_templates_of_the_collection_compile_and_render() -> None:
    sources = {path.name: path.read_text() for path in sorted(COLLECTION.glob("*.jinja"))}
    assert len(sources) == 70
    refused = []
    for name, source in sources.items():
        try:
            assert "Hello" in rendered(source)
        except InvalidRequest:
            refused.append(name)

    assert refused == ["google-gemma-2-2b-it.jinja"]  # it refuses system messages
