"""Writes answers in every dialect, by hand from the models' templates and documentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Calls = list[tuple[str, dict[str, Any]]]
Segment = str | Calls
BAR = "\N{FULLWIDTH VERTICAL LINE}"
NEAR = {
    "name": {"type": "string"},
    "at": {"type": "array", "items": {"type": "number"}},
    "deep": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
}
TOOLS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "limit": {"type": "integer"},
            "ratio": {"type": "number"},
            "hot": {"type": "boolean"},
            "ids": {"type": "array", "items": {"type": "integer"}},
            "near": {"type": "object", "properties": NEAR},
        },
        "required": ["city"],
    },
    "get_time": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def raw(value: object) -> str:
    return value if isinstance(value, str) else dump(value)


def objects(calls: Calls, name: str = "name", arguments: str = "arguments") -> list[str]:
    return [dump({name: n, arguments: a}) for n, a in calls]


def each(template: str, joined: str = "") -> Callable[[Calls], str]:
    """Calls one after the other, with @N and @A for their names and arguments."""

    def write(calls: Calls) -> str:
        return joined.join(template.replace("@N", n).replace("@A", dump(a)) for n, a in calls)

    return write


def array(before: str, after: str, **keys: str) -> Callable[[Calls], str]:
    return lambda calls: f"{before}[{', '.join(objects(calls, **keys))}]{after}"


def tags(
    around: tuple[str, str],
    call: tuple[str, str],
    parameter: tuple[str, str],
    *,
    is_shared: bool = False,
    joined: str = "\n",
) -> Callable[[Calls], str]:
    """Calls with parameters `K` and `V`, each call in `around`, or all of them."""

    def write_call(name: str, arguments: dict[str, Any]) -> str:
        members = "".join(
            parameter[0].replace("K", key).replace("T", str(isinstance(value, str)).lower())
            + raw(value)
            + parameter[1]
            for key, value in arguments.items()
        )
        return call[0].replace("N", name) + members + call[1]

    def write(calls: Calls) -> str:
        written = [write_call(name, arguments) for name, arguments in calls]
        if is_shared:
            return around[0] + joined.join(written) + around[1]
        return joined.join(around[0] + text + around[1] for text in written)

    return write


def write_deepseek_r1(calls: Calls) -> str:
    call = each(
        f"<{BAR}tool▁call▁begin{BAR}>function<{BAR}tool▁sep{BAR}>@N\n```json\n@A\n```"
        f"<{BAR}tool▁call▁end{BAR}>",
        "\n",
    )
    return f"<{BAR}tool▁calls▁begin{BAR}>{call(calls)}<{BAR}tool▁calls▁end{BAR}>"


def write_deepseek_v31(calls: Calls) -> str:
    call = each(f"<{BAR}tool▁call▁begin{BAR}>@N<{BAR}tool▁sep{BAR}>@A<{BAR}tool▁call▁end{BAR}>")
    return f"<{BAR}tool▁calls▁begin{BAR}>{call(calls)}<{BAR}tool▁calls▁end{BAR}>"


def write_kimi_k2(calls: Calls) -> str:
    written = "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>"
        f"{dump(arguments)}<|tool_call_end|>"
        for index, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def write_dsml(section: str) -> Callable[[Calls], str]:
    mark = f"{BAR}DSML{BAR}"
    return tags(
        (f"\n\n<{mark}{section}>\n", f"\n</{mark}{section}>"),
        (f'<{mark}invoke name="N">\n', f"</{mark}invoke>"),
        (f'<{mark}parameter name="K" string="T">', f"</{mark}parameter>\n"),
        is_shared=True,
    )


def write_kimi_k3(calls: Calls) -> str:
    kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "array"}
    written = ""
    for index, (name, arguments) in enumerate(calls, 1):
        written += f'<|open|>call tool="{name}" index="{index}"<|sep|>'
        for key, value in arguments.items():
            kind = kinds.get(type(value), "object")
            written += f'<|open|>argument key="{key}" type="{kind}"<|sep|>{raw(value)}'
            written += "<|close|>argument<|sep|>"
        written += "<|close|>call<|sep|>"
    return f"<|open|>tools<|sep|>{written}<|close|>tools<|sep|>"


def write_minimax_m3(calls: Calls) -> str:
    mark = "]<]minimax[>["

    def nest(value: Any) -> str:
        if isinstance(value, dict):
            return "".join(f"{mark}<{k}>{nest(v)}{mark}</{k}>" for k, v in value.items())
        if isinstance(value, list):
            return "".join(f"{mark}<item>{nest(item)}{mark}</item>" for item in value)
        return raw(value)

    written = "".join(
        f'{mark}<invoke name="{name}">{nest(arguments)}{mark}</invoke>\n'
        for name, arguments in calls
    )
    return f"{mark}<tool_call>\n{written}{mark}</tool_call>"


def write_command_r7b(calls: Calls) -> str:
    written = ", ".join(
        dump({"tool_call_id": str(n), "tool_name": name, "parameters": arguments})
        for n, (name, arguments) in enumerate(calls)
    )
    return f"<|START_ACTION|>[{written}]<|END_ACTION|>"


def write_lfm2(calls: Calls) -> str:
    def literal(value: Any) -> str:
        return dump(value) if isinstance(value, str) else repr(value)

    written = ", ".join(
        f"{name}({', '.join(f'{k}={literal(v)}' for k, v in arguments.items())})"
        for name, arguments in calls
    )
    return f"<|tool_call_start|>[{written}]<|tool_call_end|>"


def gemma(quote: str, before: str, after: str) -> Callable[[Calls], str]:
    def literal(value: Any) -> str:
        if isinstance(value, str):
            return f"{quote}{value}{quote}"
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{literal(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(literal, value)) + "]"
        return dump(value)

    return lambda calls: "".join(f"{before}call:{n}{literal(a)}{after}" for n, a in calls)


def write_minicpm5(calls: Calls) -> str:
    def wrap(value: Any) -> str:
        text = raw(value)
        return f"<![CDATA[{text}]]>" if set("<&\n") & set(text) else text

    return "\n".join(
        f'<function name="{name}">'
        + "".join(f'<param name="{k}">{wrap(v)}</param>' for k, v in arguments.items())
        + "</function>"
        for name, arguments in calls
    )


_XML = (("<tool_call>\n", "\n</tool_call>"), ("<function=N>\n", "</function>"))
# By dialect: writes calls.
FORMS: dict[str, Callable[[Calls], str]] = {
    "hermes": each('<tool_call>\n{"name": "@N", "arguments": @A}\n</tool_call>', "\n"),
    "llama3": each('{"name": "@N", "parameters": @A}', "; "),
    "mistral-list": array("[TOOL_CALLS]", ""),
    "apriel": array("<tool_calls>", "</tool_calls>"),
    "minimax-m1": lambda calls: f"<tool_calls>\n{chr(10).join(objects(calls))}\n</tool_calls>",
    "nemotron-v2": array("<TOOLCALL>", "</TOOLCALL>"),
    "apertus": lambda calls: (
        f"<|tools_prefix|>[{', '.join(dump({n: a}) for n, a in calls)}]<|tools_suffix|>"
    ),
    "granite3": array("<|tool_call|>", ""),
    "phi4": array("<|tool_call|>", "<|/tool_call|>"),
    "firefunction": array(" functools", ""),
    "command-r": array("\nAction:\n```json\n", "\n```", name="tool_name", arguments="parameters"),
    "command-r7b": write_command_r7b,
    "gigachat3": each(
        '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "@N", "arguments": @A}'
    ),
    "gigachat3.1": each('<|function_call|>{"name": "@N", "arguments": @A}'),
    "mistral": each("[TOOL_CALLS]@N[ARGS]@A"),
    "deepseek-r1": write_deepseek_r1,
    "deepseek-v3.1": write_deepseek_v31,
    "kimi-k2": write_kimi_k2,
    "solar": lambda calls: (
        "<|tool_calls|>"
        + each(
            "<|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>@N<|tool_call:args|>@A<|tool_call:end|>"
        )(calls)
        + "<|calls|>"
    ),
    "functionary-v3.1": each("<function=@N>@A</function>"),
    "qwen3-coder": tags(*_XML, ("<parameter=K>\n", "\n</parameter>\n")),
    "seed-oss": tags(
        ("<seed:tool_call>\n", "\n</seed:tool_call>"),
        ("<function=N>\n", "</function>"),
        ("<parameter=K>", "</parameter>\n"),
    ),
    "glm4": tags(
        ("", ""),
        ("<tool_call>N\n", "</tool_call>"),
        ("<arg_key>K</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    "hy3": tags(
        ("<tool_calls:opensource>\n", "\n</tool_calls:opensource>"),
        ("<tool_call:opensource>N<tool_sep:opensource>\n", "</tool_call:opensource>"),
        (
            "<arg_key:opensource>K</arg_key:opensource>\n<arg_value:opensource>",
            "</arg_value:opensource>\n",
        ),
        is_shared=True,
    ),
    "minimax-m2": tags(
        ("<minimax:tool_call>\n", "\n</minimax:tool_call>"),
        ('<invoke name="N">\n', "</invoke>"),
        ('<parameter name="K">', "</parameter>\n"),
        is_shared=True,
    ),
    "muse": tags(
        ("<atem:function_calls>\n", "\n</atem:function_calls>"),
        ('<atem:invoke name="N">\n', "</atem:invoke>"),
        ('<atem:parameter name="K">', "</atem:parameter>\n"),
    ),
    "minicpm5": write_minicpm5,
    "kimi-k3": write_kimi_k3,
    "deepseek-v3.2": write_dsml("function_calls"),
    "deepseek-v4": write_dsml("tool_calls"),
    "minimax-m3": write_minimax_m3,
    "lfm2": write_lfm2,
    "gemma4": gemma('<|"|>', "<|tool_call>", "<tool_call|>"),
    "functiongemma": gemma("<escape>", "<start_function_call>", "<end_function_call>"),
}


def write_answer(dialect: str, segments: list[Segment]) -> str:
    """The text of an answer: texts and lists of calls."""
    if dialect == "harmony":
        return write_harmony(segments)
    if dialect == "functionary-v3.2":
        return write_functionary32(segments)
    return "".join(s if isinstance(s, str) else FORMS[dialect](s) for s in segments)


def write_harmony(segments: list[Segment]) -> str:
    messages: list[str] = []
    for segment in segments:
        if isinstance(segment, str):
            messages.append(f"<|channel|>final<|message|>{segment}<|end|>")
            continue
        messages += [
            f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
            f"{dump(arguments)}<|call|>"
            for name, arguments in segment
        ]
    return "<|start|>assistant".join(messages)


def write_functionary32(segments: list[Segment]) -> str:
    written: list[str] = []
    for segment in segments:
        if isinstance(segment, str):
            written.append(f"all\n{segment}")
        else:
            written += [f"{name}\n{dump(arguments)}" for name, arguments in segment]
    return ">>>".join(written)
