"""The body of `POST /v1/prefixes`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from services.api.dialects.openai.schemas.chat_schema import ChatMessage, Tools
from services.api.dialects.openai.schemas.thinking_options import Effort
from services.api.dialects.openai.schemas.token_inputs import TokenId
from services.api.generation.requests.request_checks import MAX_MESSAGES
from services.api.request_body import RequestBody
from services.shared.limits import PREFIX_NAME

Prompt = str | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class PrefixRequest(RequestBody):
    """What chats or completions begin with; the options shape what a template writes of it."""

    name: str = Field(pattern=f"^{PREFIX_NAME.pattern}$")
    model: str = Field(min_length=1)
    messages: list[ChatMessage] | None = Field(
        default=None, min_length=1, max_length=MAX_MESSAGES, fail_fast=True
    )
    prompt: Prompt | None = None
    tools: Tools | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _check_shape(self) -> PrefixRequest:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("either messages or prompt is required")
        if self.prompt is not None and self.tools is not None:
            raise ValueError("tools need messages")
        return self
