"""Families that write values which are not JSON."""

from __future__ import annotations

from services.api.parsing.tool_calls.shapes.literal_calls import LiteralCalls
from services.api.parsing.tool_calls.shapes.literals import FUNCTION_GEMMA, GEMMA, PYTHON

LFM2 = LiteralCalls(
    name="lfm2",
    opens="<|tool_call_start|>",
    brackets=("(", ")"),
    separator="=",
    comma=", ",
    is_list=True,
    closes="<|tool_call_end|>",
    syntax=PYTHON,
)
GEMMA4 = LiteralCalls(
    name="gemma4",
    opens="<|tool_call>",
    prefix="call:",
    brackets=("{", "}"),
    separator=":",
    comma=",",
    closes="<tool_call|>",
    syntax=GEMMA,
)
FUNCTION_GEMMA_CALLS = LiteralCalls(
    name="functiongemma",
    opens="<start_function_call>",
    prefix="call:",
    brackets=("{", "}"),
    separator=":",
    comma=",",
    closes="<end_function_call>",
    syntax=FUNCTION_GEMMA,
)
