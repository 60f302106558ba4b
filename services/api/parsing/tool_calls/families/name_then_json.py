"""Families that write the name between markers, and then the arguments as JSON."""

from __future__ import annotations

import re

from services.api.parsing.tool_calls.base import new_kimi_id, new_mistral_id
from services.api.parsing.tool_calls.shapes.named_calls import NamedCalls

_PLAIN_NAME = re.compile(r"\s*(?P<name>[^\s\[\]<>{}]+)\s*")

MISTRAL = NamedCalls(
    name="mistral",
    example="[TOOL_CALLS]NAME[ARGS]ARGUMENTS",
    opens="[TOOL_CALLS]",
    name_ends="[ARGS]",
    header=re.compile(_PLAIN_NAME.pattern + r"(?:\[CALL_ID\](?P<id>[^\[\]\s]+))?"),
    new_id=new_mistral_id,
)
_BAR = "\N{FULLWIDTH VERTICAL LINE}"
_DEEPSEEK_SECTION = (f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁calls▁end{_BAR}>")
_DEEPSEEK_CALL = (f"<{_BAR}tool▁call▁begin{_BAR}>", f"<{_BAR}tool▁call▁end{_BAR}>")
_SEPARATOR = f"<{_BAR}tool▁sep{_BAR}>"


def _write_deepseek(call: str) -> str:
    return (
        f"{_DEEPSEEK_SECTION[0]}{_DEEPSEEK_CALL[0]}{call}{_DEEPSEEK_CALL[1]}{_DEEPSEEK_SECTION[1]}"
    )


DEEPSEEK_R1 = NamedCalls(
    name="deepseek-r1",
    example=_write_deepseek(f"function{_SEPARATOR}NAME\n```json\nARGUMENTS\n```"),
    section=_DEEPSEEK_SECTION,
    opens=_DEEPSEEK_CALL[0],
    name_ends="\n",
    header=re.compile(rf"\w*{_SEPARATOR}" + _PLAIN_NAME.pattern),
    fence="```json",
    closes=("```", _DEEPSEEK_CALL[1]),
)
DEEPSEEK_V31 = NamedCalls(
    name="deepseek-v3.1",
    example=_write_deepseek(f"NAME{_SEPARATOR}ARGUMENTS"),
    section=_DEEPSEEK_SECTION,
    opens=_DEEPSEEK_CALL[0],
    name_ends=_SEPARATOR,
    header=_PLAIN_NAME,
    closes=(_DEEPSEEK_CALL[1],),
)
KIMI_K2 = NamedCalls(
    name="kimi-k2",
    example=(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:{ID}"
        "<|tool_call_argument_begin|>ARGUMENTS<|tool_call_end|><|tool_calls_section_end|>"
    ),
    section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    opens="<|tool_call_begin|>",
    name_ends="<|tool_call_argument_begin|>",
    header=re.compile(r"\s*(?P<id>(?:functions\.)?(?P<name>[^\s<>]+?)(?::\d+)?)\s*"),
    closes=("<|tool_call_end|>",),
    id_pattern="[0-9]",
    new_id=new_kimi_id,
)
SOLAR = NamedCalls(
    name="solar",
    example=(
        "<|tool_calls|><|tool_call:begin|>{ID}<|tool_call:name|>NAME<|tool_call:args|>"
        "ARGUMENTS<|tool_call:end|><|calls|>"
    ),
    section=("<|tool_calls|>", "<|calls|>"),
    opens="<|tool_call:begin|>",
    name_ends="<|tool_call:args|>",
    header=re.compile(r"\s*(?P<id>\w*)<\|tool_call:name\|>" + _PLAIN_NAME.pattern),
    closes=("<|tool_call:end|>",),
    id_pattern="[a-z0-9]{10}",
    dropped=("<|begin|>assistant", "<|content|>", "<|end|>"),
)
FUNCTIONARY31 = NamedCalls(
    name="functionary-v3.1",
    example="<function=NAME>ARGUMENTS</function>",
    opens="<function=",
    name_ends=">",
    header=_PLAIN_NAME,
    closes=("</function>",),
)
FUNCTIONARY32 = NamedCalls(
    name="functionary-v3.2",
    example="NAME\nARGUMENTS",
    opens=">>>",
    name_ends="\n",
    header=_PLAIN_NAME,
    starts_open=True,
    content_name="all",
)
