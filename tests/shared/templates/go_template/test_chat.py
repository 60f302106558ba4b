"""Go templates in the styles of Ollama's models, against prompts worked out by hand."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from services.shared.errors import InvalidModelFile
from services.shared.templates.go_template.chat import GoChatTemplate
from services.shared.templates.go_template.messages import build_messages
from services.shared.templates.marks import build_mark
from services.shared.templates.template import MAX_SOURCE, TemplateFailed
from services.shared.templates.template_probe import find_composed, probe

SYSTEM = {"role": "system", "content": "Be kind."}
HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi!"}
MORE = {"role": "user", "content": "More"}
TURNS = [SYSTEM, HELLO, ANSWER, MORE]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks at <it>.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where."},
                "far": {"type": ["number", "null"], "enum": [1, 2]},
            },
            "required": ["place"],
        },
    },
}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "reasoning_content": "Think hard.",
    "tool_calls": [
        {"id": "c1", "function": {"name": "look", "arguments": {"place": "here", "far": 1}}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "A cat."}
ROUND = [HELLO, CALL, RESULT]
TOOL_JSON = (
    '{"type":"function","function":{"name":"look","description":"Looks at \\u003cit\\u003e.",'
    '"parameters":{"type":"object","required":["place"],"properties":'
    '{"far":{"type":["number","null"],"enum":[1,2]},'
    '"place":{"type":"string","description":"Where."}}}}}'
)

# A run for each turn.
CHATML = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
ALPACA = (
    "{{ if .System }}{{ .System }}\n\n{{ end }}{{ if .Prompt }}### Instruction:\n{{ .Prompt }}\n\n"
    "{{ end }}### Response:\n"
)
IN_A_BRANCH = "{{ .Prompt }}|{{ if .Response }}<{{ .Response }}>{{ else }}?{{ end }}!"

# The idiom of most templates with messages: the last one, and what follows it.
MESSAGES = """{{- if or .System .Tools }}<|start|>system
{{- if .System }}

{{ .System }}
{{- end }}
{{- if .Tools }}

Tools:
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
{{- end }}<|end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|start|>user
{{ .Content }}<|end|>
{{ else if eq .Role "assistant" }}<|start|>assistant
{{ if and .Thinking (not $last) }}<think>{{ .Thinking }}</think>{{ end }}
{{- if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|end|>
{{ end }}
{{- else if eq .Role "tool" }}<|start|>user
<tool_response>{{ .ToolName }}: {{ .Content }}</tool_response><|end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|start|>assistant
{{ if and $.IsThinkSet (not $.Think) -}}
<think></think>
{{ end -}}
{{ end -}}
{{- end }}"""

# A variable that a loop sets, and arguments one by one.
LAST_USER = (
    "{{- $last := -1 }}{{ range $i, $m := .Messages }}{{ if eq $m.Role `user` }}{{ $last = $i }}"
    "{{ end }}{{ end }}{{ range $i, $m := .Messages }}{{ if and (eq $i $last) $.Tools }}"
    "[TOOLS]{{ $.Tools }}[/TOOLS]{{ end }}{{ if eq $m.Role `user` }}[INST]{{ $m.Content }}[/INST]"
    "{{ else if $m.ToolCalls }}[CALLS]{{ range $m.ToolCalls }}{{ .Function.Name }}("
    "{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }};{{ end }}){{ end }}</s>"
    "{{ else if eq $m.Role `tool` }}[RESULTS]{{ json $m.Content }}[/RESULTS]"
    "{{ else if eq $m.Role `assistant` }}{{ $m.Content }}</s>{{ end }}{{ end }}"
)

# Types for TypeScript, as gpt-oss has them.
TYPES = (
    "{{ range .Tools }}// {{ .Function.Description }}\ntype {{ .Function.Name }} = (_:{ "
    "{{- range $name, $p := .Function.Parameters.Properties }} {{ $name }}: {{ toTypeScriptType $p }},"
    "{{ end }} }) => any;\n{{ end }}{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}"
    "{{ if .ThinkLevel }}({{ .ThinkLevel }}){{ end }}"
)
SUFFIX = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else if .Messages }}{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}[assistant]{{ end }}"


def render(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    return GoChatTemplate(source).render({"messages": messages, **variables})


@pytest.mark.parametrize(
    ("source", "messages", "variables", "expected"),
    [
        (CHATML, [HELLO], {}, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
        (
            CHATML,
            TURNS,
            {},
            ("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\nHi!<|im_end|>\n"
            "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n"),
        ),
        (
            CHATML,
            [HELLO, ANSWER],
            {},
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!",
        ),
        (
            CHATML,
            [HELLO, MORE],
            {},
            "<|im_start|>user\nHello\n\nMore<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            ALPACA,
            TURNS,
            {},
            ("Be kind.\n\n### Instruction:\nHello\n\n### Response:\nHi!"
            "### Instruction:\nMore\n\n### Response:\n"),
        ),
        (IN_A_BRANCH, [HELLO, ANSWER, MORE], {}, "Hello|<Hi!>!More|"),
        (
            MESSAGES,
            TURNS,
            {},
            ("<|start|>system\n\nBe kind.<|end|>\n<|start|>user\nHello<|end|>\n"
            "<|start|>assistant\nHi!<|end|>\n<|start|>user\nMore<|end|>\n<|start|>assistant\n"),
        ),
        (
            MESSAGES,
            ROUND,
            {"tools": [TOOL], "enable_thinking": False},
            "<|start|>system\n\nTools:\n"
            + TOOL_JSON.replace('{"type":"function","function":', '{"type": "function", "function": ')
            + "<|end|>\n<|start|>user\nHello<|end|>\n<|start|>assistant\n"
            "<think>Think hard.</think><tool_call>\n"
            '{"name": "look", "arguments": {"far":1,"place":"here"}}\n</tool_call><|end|>\n'
            "<|start|>user\n<tool_response>look: A cat.</tool_response><|end|>\n"
            "<|start|>assistant\n<think></think>\n",
        ),
        (
            LAST_USER,
            ROUND,
            {"tools": [TOOL]},
            (f"[TOOLS][{TOOL_JSON}][/TOOLS][INST]Hello[/INST][CALLS]look(far=1;place=here;)</s>"
            '[RESULTS]"A cat."[/RESULTS]'),
        ),
        (
            TYPES,
            [HELLO],
            {"tools": [TOOL], "reasoning_effort": "high"},
            ("// Looks at <it>.\ntype look = (_:{ far: number | null, place: string, }) => any;\n"
            "<user>Hello(high)"),
        ),
        (SUFFIX, [HELLO], {}, "[user]Hello[assistant]"),
    ],
    ids=[
        "question",
        "turns",
        "the answer goes on",
        "neighbours",
        "without Response",
        "Response in a branch",
        "messages",
        "tools",
        "last user",
        "types",
        "suffix",
    ],
)  # fmt: skip
def test_the_prompt(
    source: str, messages: list[dict[str, Any]], variables: dict[str, Any], expected: str
) -> None:
    assert render(source, messages, **variables) == expected


def test_calls_of_neighbouring_answers_are_kept() -> None:
    messages = [HELLO, CALL, {**CALL, "content": "And", "tool_calls": CALL["tool_calls"]}]
    source = "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Index }}{{ end }},{{ end }}"

    assert render(source, messages) == ",01,"


def test_the_work_for_neighbours_grows_with_their_number_and_not_with_its_square() -> None:
    def count_calls(messages: int) -> int:
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        old = sys.getprofile()
        sys.setprofile(count)
        try:
            build_messages([CALL] * messages)
        finally:
            sys.setprofile(old)
        return calls

    assert count_calls(200) < 2.3 * count_calls(100)


def test_a_tool_keeps_what_ollama_does_not_know() -> None:
    function = {"name": "f", "parameters": {"properties": {"a": {"type": "string", "format": "x"}}}}

    text = render("{{ .Tools }}{{ .Messages }}:", [], tools=[{"function": function}])

    assert text.startswith(
        '[{"type":"function","function":{"name":"f","parameters":'
        '{"type":"object","properties":{"a":{"type":"string","format":"x"}}}}}]'
    )


def test_the_traits_of_templates_with_and_without_messages() -> None:
    old, new = probe(GoChatTemplate(CHATML)), probe(GoChatTemplate(MESSAGES))

    assert (old.failure, old.system, old.tools, old.tool_calls, old.tool_results) == (
        None,
        True,
        False,
        False,
        False,
    )
    assert (new.tools, new.tool_calls, new.several_calls, new.tool_results) == (True,) * 4
    assert (new.arguments_as_object, new.thinking, new.thinking_switch) == (
        True,
        True,
        "enable_thinking",
    )


def test_control_tokens_are_marked_in_what_the_template_writes() -> None:
    source = (
        '{{ range .Messages }}<|a|>{{ "<|b|>" }}{{ .Content }}{{ end }}{{ printf "<|%s|>" "c" }}'
    )
    tokens = ("<|a|>", "<|b|>", "<|c|>", "<|d|>")
    template = GoChatTemplate(source, control_tokens=tokens, mark_prefix="\U000f0000")

    prompt = template.render({"messages": [{"role": "user", "content": "<|a|>"}]})

    first, second = (build_mark("\U000f0000", number) for number in (1, 2))
    assert template.marked == ("<|a|>", "<|b|>")
    assert prompt == f"{first}{second}<|a|><|c|>"
    assert find_composed(template, probe(GoChatTemplate(source)), tokens) == ("<|c|>",)


@pytest.mark.parametrize(
    "source", ["{{ if }}", "{{ .Prompt }}", " \n{{ .Messages }}", "x" * (MAX_SOURCE + 1)]
)
def test_a_template_that_cannot_work_is_refused(source: str) -> None:
    with pytest.raises(InvalidModelFile):
        GoChatTemplate(source)


def test_a_field_that_messages_do_not_have_is_named_with_its_line() -> None:
    with pytest.raises(TemplateFailed, match=r"no field \.Contents") as caught:
        render("a\n{{ range .Messages }}{{ .Contents }}{{ end }}", [HELLO])

    assert caught.value.line == 2
