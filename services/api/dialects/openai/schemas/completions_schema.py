"""The body of `POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from services.api.dialects.openai.schemas.generation_options import GenerationOptions
from services.api.dialects.openai.schemas.refused_fields import RefusedCompletionFields
from services.api.dialects.openai.schemas.token_inputs import TokenId, wrap_single
from services.shared.limits import MAX_ANSWERS

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's default, which its clients rely on

Prompt = str | Annotated[list[TokenId], Field(fail_fast=True)]
Prompts = Annotated[
    Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)],
    BeforeValidator(wrap_single),
]


class CompletionRequest(GenerationOptions, RefusedCompletionFields):
    """One or several prompts, each continued without a chat template."""

    prompt: Prompts
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = Field(default=None, ge=1, le=MAX_ANSWERS)

    @model_validator(mode="after")
    def _check_support(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ValueError("best_of must not be less than n")
        if self.is_ranked and self.stream:
            raise ValueError("best_of greater than n cannot be streamed")
        if self.echo and self.stream and self.wants_prompt_logprobs:
            raise ValueError("echo with logprobs cannot be streamed")
        if self.suffix and any(not isinstance(prompt, str) for prompt in self.prompt):
            raise ValueError("suffix needs prompts that are texts")
        if self.suffix and self.wants_prompt_logprobs:
            raise ValueError("suffix excludes the logprobs of an echo")
        if any(len(prompt) == 0 for prompt in self.prompt if not isinstance(prompt, str)):
            raise ValueError("prompt must not be an empty list of tokens")
        return self

    @property
    def answers_per_prompt(self) -> int:
        """How many answers the model writes to each prompt, `n` of which are returned."""
        return self.best_of or self.n or 1

    @property
    def is_ranked(self) -> bool:
        """Whether only the best of the answers are returned."""
        return self.answers_per_prompt > (self.n or 1)

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the tokens of the echo come with their log-probabilities."""
        return bool(self.echo) and self.logprobs is not None
