"""How long the model may think before its answer; the engine ends the thinking where it is over."""

from __future__ import annotations

from dataclasses import dataclass

from services.api.generation.requests.answer_constraint import AnswerConstraint, Thinking
from services.api.generation.requests.generation_request import GenerationRequest
from services.api.parsing.tool_calls.base import ThinkingDialect, ToolDialect
from services.api.prompts.render import Conversation
from services.shared.templates.traits import TemplateTraits

_EFFORT_VARIABLES = ("reasoning_effort", ".ThinkLevel")  # of Jinja and of Ollama's templates
# For templates without such a variable; any other word sets no limit.
_EFFORT_TOKENS = {"minimal": 512, "low": 1024, "medium": 8192}


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingBudget:
    """The marks of the thinking, and its limit; the fields are those of the engine's message."""

    start: str
    end: str
    is_open: bool
    max_tokens: int | None
    spares_answer: bool


def build_budget(
    request: GenerationRequest,
    conversation: Conversation,
    dialect: ToolDialect,
    thinking: Thinking | None,
    constraint: AnswerConstraint | None,
    *,
    template: str,
    traits: TemplateTraits,
) -> ThinkingBudget | None:
    """The budget of a chat; None where it may think as it likes, or does not think at all.

    Where something must follow the thinking, some of the answer's tokens are spared for it. A
    structure without a place for thinking has no budget: its texts could hold the end mark.
    """
    if isinstance(dialect, ThinkingDialect):
        thinking = dialect.marks, False
    if thinking is None or (constraint and not constraint.trigger and not constraint.before):
        return None
    marks, is_open = thinking
    max_tokens = request.thinking_budget
    if conversation.is_thinking is False and max_tokens != 0:
        is_off = traits.thinking_switch is not None and not is_open
        max_tokens = None if is_off else 0
    elif max_tokens is None and not any(name in template for name in _EFFORT_VARIABLES):
        max_tokens = _EFFORT_TOKENS.get(conversation.reasoning_effort or "")
    spares_answer = constraint is not None and bool(constraint.before)
    if max_tokens is None and not spares_answer:
        return None
    return ThinkingBudget(
        start=marks.start,
        end=marks.end,
        is_open=is_open,
        max_tokens=max_tokens,
        spares_answer=spares_answer,
    )
