"""Families that write calls as JSON objects with a name and arguments."""

from __future__ import annotations

from services.api.parsing.tool_calls.base import new_mistral_id
from services.api.parsing.tool_calls.shapes.json_calls import JsonCalls

_NAME_ARGUMENTS = '{"name": "NAME", "arguments": ARGUMENTS}'
HERMES = JsonCalls(
    name="hermes",
    example=f"<tool_call>\n{_NAME_ARGUMENTS}\n</tool_call>",
    opens="<tool_call>",
    closes="</tool_call>",
)
MISTRAL_LIST = JsonCalls(
    name="mistral-list",
    example=f"[TOOL_CALLS][{_NAME_ARGUMENTS}]",
    opens="[TOOL_CALLS]",
    new_id=new_mistral_id,
)
APRIEL = JsonCalls(
    name="apriel",
    example=f"<tool_calls>[{_NAME_ARGUMENTS}]</tool_calls>",
    opens="<tool_calls>",
    closes="</tool_calls>",
)
MINIMAX_M1 = JsonCalls(
    name="minimax-m1",
    example=f"<tool_calls>\n{_NAME_ARGUMENTS}\n</tool_calls>",
    opens="<tool_calls>",
    closes="</tool_calls>",
)
NEMOTRON_V2 = JsonCalls(
    name="nemotron-v2",
    example=f"<TOOLCALL>[{_NAME_ARGUMENTS}]</TOOLCALL>",
    opens="<TOOLCALL>",
    closes="</TOOLCALL>",
)
APERTUS = JsonCalls(
    name="apertus",
    example='<|tools_prefix|>[{"NAME": ARGUMENTS}]<|tools_suffix|>',
    opens="<|tools_prefix|>",
    closes="<|tools_suffix|>",
    is_keyed=True,
)
GRANITE3 = JsonCalls(
    name="granite3",
    example=f"<|tool_call|>[{_NAME_ARGUMENTS}]",
    opens="<|tool_call|>",
)
PHI4 = JsonCalls(
    name="phi4",
    example=f"<|tool_call|>[{_NAME_ARGUMENTS}]<|/tool_call|>",
    opens="<|tool_call|>",
    closes="<|/tool_call|>",
)
FIREFUNCTION = JsonCalls(
    name="firefunction",
    example=f"functools[{_NAME_ARGUMENTS}]",
    opens="functools",
)
COMMAND_R = JsonCalls(
    name="command-r",
    example='Action:\n```json\n[{"tool_name": "NAME", "parameters": ARGUMENTS}]\n```',
    opens="Action:",
    fence="```json",
    closes="```",
)
COMMAND_R7B = JsonCalls(
    name="command-r7b",
    example=(
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "NAME", "parameters": ARGUMENTS}]'
        "<|END_ACTION|>"
    ),
    opens="<|START_ACTION|>",
    closes="<|END_ACTION|>",
    dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)
GIGACHAT3 = JsonCalls(
    name="gigachat3",
    example=f"function call<|role_sep|>\n{_NAME_ARGUMENTS}",
    opens="function call<|role_sep|>",
    dropped=("<|message_sep|>",),
)
GIGACHAT31 = JsonCalls(
    name="gigachat3.1",
    example=f"<|function_call|>{_NAME_ARGUMENTS}",
    opens="<|function_call|>",
    dropped=("<|message_sep|>",),
)
