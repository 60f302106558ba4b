"""Chooses the dialect of a model by the texts that its chat template contains."""

from __future__ import annotations

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.differential import Render, find_by_rendering
from services.api.parsing.tool_calls.families import (
    json_objects,
    literal_values,
    name_then_json,
    tagged_parameters,
)
from services.api.parsing.tool_calls.families.harmony import HARMONY
from services.api.parsing.tool_calls.families.llama3 import LLAMA3
from services.api.parsing.tool_calls.families.minimax_m3 import MINIMAX_M3
from services.api.parsing.tool_calls.shapes.either_calls import EitherCalls, MarkedDialect
from services.shared.templates.traits import TemplateTraits

# By texts that a template contains, all of them; the first row that fits is taken. A text that
# several families use comes after those that tell them apart.
_RULES: tuple[tuple[tuple[str, ...], ToolDialect], ...] = (
    (("<|channel|>", "<|message|>", "functions."), HARMONY),
    (("]<]minimax[>[",), MINIMAX_M3),
    (("<minimax:tool_call>",), tagged_parameters.MINIMAX_M2),
    (("<atem:function_calls>",), tagged_parameters.MUSE),
    (("<|open|>", "<|sep|>", "argument"), tagged_parameters.KIMI_K3),
    (("DSML", "function_calls>"), tagged_parameters.DEEPSEEK_V32),
    (("DSML", "tool_calls>"), tagged_parameters.DEEPSEEK_V4),
    (("tool▁sep", "```json"), name_then_json.DEEPSEEK_R1),
    (("tool▁sep",), name_then_json.DEEPSEEK_V31),
    (("<|tool_call_argument_begin|>",), name_then_json.KIMI_K2),
    (("<|tool_call:begin|>",), name_then_json.SOLAR),
    (("<seed:tool_call>",), tagged_parameters.SEED_OSS),
    (("<tool_sep{}>", ":opensource"), tagged_parameters.HY3),
    (("<tool_call>", "<function="), tagged_parameters.QWEN3_CODER),
    (("<tool_call>", "<arg_key>"), tagged_parameters.GLM4),
    (('<function name="', '<param name="'), tagged_parameters.MINICPM5),
    (("<|tool_call>", "call:"), literal_values.GEMMA4),
    (("<start_function_call>",), literal_values.FUNCTION_GEMMA_CALLS),
    (("<|tool_call_start|>",), literal_values.LFM2),
    (("<|tool_list_start|>",), literal_values.LFM2),
    (("List of tools: [", "<|im_start|>"), literal_values.LFM2),
    (("[TOOL_CALLS]", "[ARGS]"), name_then_json.MISTRAL),
    (("[TOOL_CALLS]",), json_objects.MISTRAL_LIST),
    (("<TOOLCALL>",), json_objects.NEMOTRON_V2),
    (("<|tools_prefix|>",), json_objects.APERTUS),
    (("<|function_call|>",), json_objects.GIGACHAT31),
    (("function call", "<|role_sep|>"), json_objects.GIGACHAT3),
    (("<|START_ACTION|>",), json_objects.COMMAND_R7B),
    (("Action:", "```json", "tool_name"), json_objects.COMMAND_R),
    ((" functools[",), json_objects.FIREFUNCTION),
    ((">>>all",), name_then_json.FUNCTIONARY32),
    (("<function=", "</function>"), name_then_json.FUNCTIONARY31),
    (("<tool_calls>", "<beginning_of_sentence>"), json_objects.MINIMAX_M1),
    (("<tool_calls>",), json_objects.APRIEL),
    (("<|/tool_call|>",), json_objects.PHI4),
    (("<tool_call>",), json_objects.HERMES),
    (("<|tool_call|>",), json_objects.GRANITE3),
    (("<|start_header_id|>", '"parameters": '), LLAMA3),
    (("<|python_tag|>",), LLAMA3),
)
# The form that `services/api/prompts/adapt.py` describes to a model whose template shows no tools.
GENERIC = json_objects.HERMES
DIALECTS: tuple[ToolDialect, ...] = tuple({dialect.name: dialect for _, dialect in _RULES}.values())


def find_dialect(template: str) -> ToolDialect | None:
    """The dialect whose texts the template contains; None if it contains those of none."""
    for texts, dialect in _RULES:
        if all(text in template for text in texts):
            return dialect
    return None


def choose_dialect(
    template: str, traits: TemplateTraits, render: Render | None = None
) -> ToolDialect:
    """The dialect in which a model with this template writes calls.

    1. that of the template's texts
    2. that of a call which the template renders, if `render` is given
    3. the generic one, which the prompt describes to a model whose template shows no tools

    Where a prompt describes the generic dialect, or shows earlier calls in it, both are read.
    """
    own = find_dialect(template)
    if own is None and render is not None and traits.tool_calls:
        own = find_by_rendering(render)
    if own is None:
        return GENERIC
    is_adapted = not (traits.tools and traits.tool_calls and traits.tool_results)
    if is_adapted and isinstance(own, MarkedDialect) and _is_apart_from_generic(own):
        return EitherCalls(GENERIC, own) if not traits.tools else EitherCalls(own, GENERIC)
    return own


def _is_apart_from_generic(dialect: MarkedDialect) -> bool:
    """Whether no marker of one contains a marker of the other."""
    return not any(
        own in generic or generic in own
        for own in (*dialect.markers, *dialect.dropped)
        for generic in GENERIC.markers
    )
