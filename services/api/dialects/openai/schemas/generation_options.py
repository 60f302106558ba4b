"""The options that chat and text completions share: OpenAI's, and those of other local servers.

Undocumented fields are ignored, and `null` means absent, as in OpenAI's API and in
llama-server; see refused_fields.py for those that are documented and not served. The ranges here
hold for any model; the engine checks what a model's vocabulary and context allow.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from services.api.dialects.openai.schemas.refused_fields import RefusedFields
from services.api.dialects.openai.schemas.token_inputs import TokenId
from services.api.request_body import RequestBody, Seconds, other_name_of
from services.shared.limits import (
    MAX_ANSWERS,
    MAX_CONSTRAINT_CHARS,
    MAX_DEADLINE_SECONDS,
    MAX_DRY,
    MAX_DRY_ALLOWED_LENGTH,
    MAX_REPEAT_LAST_N,
    MAX_REPEAT_PENALTY,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MIN_REPEAT_PENALTY,
)

_MAX_STOP_TOKEN_IDS = 64
_MAX_BIASES = 4096


def _wrap_in_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _drop_negative(value: object) -> object:
    """None for llama.cpp's -1, which means a random seed."""
    return None if isinstance(value, int) and value < 0 else value


def _drop_empty(value: object) -> object:
    """None for an empty text, which llama.cpp's clients send where there is no grammar."""
    return None if value == "" else value


def _read_last_tokens(value: object) -> object:
    """The largest number for llama.cpp's -1, which means the whole context."""
    return MAX_REPEAT_LAST_N if value == -1 else value


def _limit_biases(value: object) -> object:
    # Before each entry is checked, because a mapping collects one error for each wrong entry.
    if isinstance(value, dict) and len(value) > _MAX_BIASES:
        raise ValueError(f"more than {_MAX_BIASES} entries")
    return value


# Lists stop at their first wrong item: an error takes a thousand times the memory of the item.
StopStrings = Annotated[
    Annotated[
        list[Annotated[str, Field(max_length=MAX_STOP_CHARS)]],
        Field(max_length=MAX_STOP_STRINGS, fail_fast=True),
    ],
    BeforeValidator(_wrap_in_list),
]
Seed = Annotated[Annotated[int, Field(lt=2**64)] | None, BeforeValidator(_drop_negative)]
StopTokens = Annotated[list[TokenId], Field(max_length=_MAX_STOP_TOKEN_IDS, fail_fast=True)]
BiasedToken = Annotated[int, Field(ge=0, lt=2**31)]  # a key, so a text
RepeatPenalty = Annotated[float, Field(ge=MIN_REPEAT_PENALTY, le=MAX_REPEAT_PENALTY)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[BiasedToken, Bias], BeforeValidator(_limit_biases)]


ConstraintText = Annotated[
    Annotated[str, Field(max_length=MAX_CONSTRAINT_CHARS)] | None, BeforeValidator(_drop_empty)
]
LastTokens = Annotated[
    Annotated[int, Field(ge=0, le=MAX_REPEAT_LAST_N)], BeforeValidator(_read_last_tokens)
]


class StreamOptions(RequestBody):
    """What a stream carries in addition to the text."""

    include_usage: bool | None = None


class JsonSchema(RequestBody):
    """OpenAI's named schema."""

    name: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestBody):
    """The shape the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")  # llama.cpp's

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        named = None if self.json_schema is None else self.json_schema.schema_
        if self.type == "json_schema" and self.schema_ is None and named is None:
            raise ValueError("json_schema.schema is required with type json_schema")
        return self


class GenerationOptions(RefusedFields):
    """How to generate; None leaves the choice to the model's own defaults."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_ANSWERS)
    max_tokens: int | None = Field(default=None, ge=-1, lt=2**31)  # -1: no limit
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stop: StopStrings | None = None
    stop_token_ids: StopTokens | None = None
    ignore_eos: bool | None = None
    seed: Seed = None

    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_k: int | None = Field(default=None, ge=-1, le=MAX_TOP_K)  # -1 and 0: off
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = other_name_of("repeat_penalty")
    repeat_last_n: LastTokens | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    dry_multiplier: float | None = Field(default=None, ge=0, le=MAX_DRY)
    dry_base: float | None = Field(default=None, ge=1, le=MAX_DRY)
    dry_allowed_length: int | None = Field(default=None, ge=1, le=MAX_DRY_ALLOWED_LENGTH)
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    logit_bias: Biases | None = None

    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | bool | None = None  # llama.cpp's short form
    guided_json: dict[str, Any] | bool | None = other_name_of("json_schema")  # vLLM's
    grammar: ConstraintText = None  # llama.cpp's GBNF
    guided_regex: ConstraintText = None  # vLLM's

    keep_alive: Seconds | None = None
    cache_prompt: bool | None = None
    lane: Literal["interactive", "background", "batch"] | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = None  # in seconds

    @model_validator(mode="after")
    def _check_constraints(self) -> GenerationOptions:
        has_format = self.response_format is not None and self.response_format.type != "text"
        found = {
            "json_schema": self.schema_of_answer,
            "grammar": self.grammar,
            "guided_regex": self.guided_regex,
        }
        given = [name for name, value in found.items() if value is not None]
        if len(given) + has_format > 1:
            names = ["response_format"] * has_format + given
            raise ValueError(f"{' and '.join(names)} exclude each other: set one of them")
        return self

    @property
    def penalty(self) -> float | None:
        """The penalty of repeated tokens, under either name."""
        return self.repetition_penalty if self.repeat_penalty is None else self.repeat_penalty

    @property
    def schema_of_answer(self) -> dict[str, Any] | bool | None:
        """The JSON schema outside of `response_format`, under either name."""
        return self.guided_json if self.json_schema is None else self.json_schema

    @property
    def answers_per_prompt(self) -> int:
        """How many answers the model writes to each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)
