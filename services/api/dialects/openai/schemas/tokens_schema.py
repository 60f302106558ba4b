"""The bodies of `POST /tokenize` and `POST /detokenize`."""

from __future__ import annotations

from pydantic import Field, model_validator

from services.api.dialects.openai.schemas.refused_fields import RefusedTokenizeFields
from services.api.dialects.openai.schemas.token_inputs import TokenId
from services.api.request_body import RequestBody
from services.shared.limits import MAX_DETOKENIZED_TOKENS


class TokenizeRequestBody(RefusedTokenizeFields):
    """With `content` in the shape of llama-server, with `prompt` in vLLM's."""

    model: str = Field(min_length=1)
    content: str | None = None
    prompt: str | None = None
    add_special: bool | None = Field(
        default=None,
        description="Whether the tokenizer adds BOS and the like. Default: with `prompt`.",
    )
    add_special_tokens: bool | None = Field(default=None, description="vLLM's name for it.")
    parse_special: bool | None = Field(
        default=None, description="`false`: the text has no control tokens, only their spelling."
    )

    @model_validator(mode="after")
    def _check_shape(self) -> TokenizeRequestBody:
        if (self.content is None) == (self.prompt is None):
            raise ValueError("either content or prompt is required")
        return self

    @property
    def text(self) -> str:
        """The text, under either name."""
        return self.content if self.content is not None else self.prompt or ""

    @property
    def adds_special(self) -> bool:
        """Whether the tokenizer adds its tokens, by the default of each service."""
        given = self.add_special if self.add_special is not None else self.add_special_tokens
        return self.prompt is not None if given is None else given


class DetokenizeRequestBody(RequestBody):
    """The shape of llama-server and of vLLM, which is the same."""

    model: str = Field(min_length=1)
    tokens: list[TokenId] = Field(max_length=MAX_DETOKENIZED_TOKENS, fail_fast=True)
