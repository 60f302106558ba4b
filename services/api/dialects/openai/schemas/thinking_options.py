"""How much a chat may think, from the fields in which clients of several services ask for it.

reasoning_effort                                   OpenAI
reasoning: {effort, max_tokens, enabled, exclude}  OpenRouter
thinking: {type, budget_tokens}                    Anthropic and DeepSeek
thinking_budget_tokens                             llama.cpp; other names: Qwen, vLLM
enable_thinking, reasoning_format                  Qwen, llama.cpp
include_reasoning                                  vLLM, OpenRouter
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from services.api.generation.requests.request_checks import MAX_EFFORT_CHARS
from services.api.request_body import RequestBody, other_name_of

Budget = Annotated[int, Field(ge=-1, lt=2**31)]  # in tokens; -1: no limit
Effort = Annotated[str, Field(max_length=MAX_EFFORT_CHARS)]


class ReasoningOptions(RequestBody):
    """OpenRouter's object."""

    effort: Effort | None = None
    max_tokens: Budget | None = None
    enabled: bool | None = None
    exclude: bool | None = None  # the model thinks, and the answer does not show it


class ThinkingObject(RequestBody):
    """Anthropic's object; an `adaptive` model thinks as it likes."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Budget | None = None


class ThinkingOptions(RequestBody):
    """The fields of a chat; None leaves thinking to the model and its template."""

    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    reasoning_format: Literal["none", "auto", "deepseek"] | None = None  # llama.cpp's
    reasoning: ReasoningOptions | None = None
    include_reasoning: bool | None = None  # vLLM's and OpenRouter's; false is `exclude`
    thinking: ThinkingObject | None = None
    thinking_budget_tokens: Budget | None = None
    reasoning_budget_tokens: Budget | None = other_name_of("thinking_budget_tokens")
    thinking_budget: Budget | None = other_name_of("thinking_budget_tokens")
    thinking_token_budget: Budget | None = other_name_of("thinking_budget_tokens")

    @model_validator(mode="after")
    def _check_thinking(self) -> ThinkingOptions:
        if len(self._budgets) > 1:
            raise ValueError(f"{' and '.join(self._budgets)} exclude each other: set one of them")
        if self.hides_thinking and self.reasoning_format == "none":
            raise ValueError("reasoning_format none leaves the thinking in the answer")
        return self

    @property
    def hides_thinking(self) -> bool:
        """Whether the thinking is left out of the answer."""
        return self.include_reasoning is False or bool(self.reasoning and self.reasoning.exclude)

    @property
    def _budgets(self) -> dict[str, int]:
        names = (
            self.thinking_budget_tokens,
            self.reasoning_budget_tokens,
            self.thinking_budget,
            self.thinking_token_budget,
        )
        given = {
            "thinking_budget_tokens": next((n for n in names if n is not None), None),
            "reasoning.max_tokens": self.reasoning.max_tokens if self.reasoning else None,
            "thinking.budget_tokens": self.thinking.budget_tokens if self.thinking else None,
        }
        return {name: tokens for name, tokens in given.items() if tokens is not None}

    @property
    def budget(self) -> int | None:
        """The tokens of thinking at most; None for no limit."""
        tokens = next(iter(self._budgets.values()), -1)
        return None if tokens < 0 else tokens

    @property
    def effort(self) -> str | None:
        """The effort, as a word."""
        own = self.reasoning.effort if self.reasoning else None
        return own if self.reasoning_effort is None else self.reasoning_effort

    @property
    def is_thinking(self) -> bool | None:
        """Whether the client switches thinking on or off."""
        given = (self.chat_template_kwargs or {}).get("enable_thinking")
        if isinstance(given, bool):
            return given
        if self.enable_thinking is not None:
            return self.enable_thinking
        if self.reasoning is not None and self.reasoning.enabled is not None:
            return self.reasoning.enabled
        if self.thinking is not None and self.thinking.type != "adaptive":
            return self.thinking.type == "enabled"
        return False if self.effort == "none" or self.budget == 0 else None
