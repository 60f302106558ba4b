"""The options chat and text completions share: OpenAI's, and the extensions local servers know.

Unknown fields are ignored and `null` is the same as absent, as OpenAI and llama-server do it.
Ranges here are those that make sense at all; what a model's vocabulary or context allows is the
engine's to say.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.shared.limits import MAX_ANSWERS

_MAX_STOPS = 64

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_seconds(value: object) -> object:
    """Ollama's keep_alive: seconds as a number, or a text such as "5m"."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError('a duration is a number of seconds or a text such as "5m"')
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def _negative_is_absent(value: object) -> object:
    """llama.cpp's -1 for a random seed."""
    return None if isinstance(value, int) and value < 0 else value


StopStrings = Annotated[list[str], BeforeValidator(_as_list), Field(max_length=_MAX_STOPS)]
Seconds = Annotated[float, BeforeValidator(_as_seconds)]
Seed = Annotated[Annotated[int, Field(lt=2**64)] | None, BeforeValidator(_negative_is_absent)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Request(BaseModel):
    """The base of every request body."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class StreamOptions(Request):
    """What else a stream carries."""

    include_usage: bool | None = None


class JsonSchema(Request):
    """OpenAI's named schema."""

    name: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Request):
    """The shape the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")  # llama.cpp's

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        named = None if self.json_schema is None else self.json_schema.schema_
        if self.type == "json_schema" and self.schema_ is None and named is None:
            raise ValueError("json_schema.schema is required with type json_schema")
        return self


class GenerationOptions(Request):
    """How to generate. None leaves the choice to the model's own defaults."""

    model: str = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_ANSWERS)
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stop: StopStrings | None = None
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=_MAX_STOPS)
    ignore_eos: bool | None = None
    seed: Seed = None

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)  # -1 and 0: off
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(
        default=None,
        gt=0,
        le=100,
        validation_alias=AliasChoices("repeat_penalty", "repetition_penalty"),
    )
    repeat_last_n: int | None = Field(default=None, ge=0, lt=2**31)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    dry_multiplier: float | None = Field(default=None, ge=0, le=100)
    dry_base: float | None = Field(default=None, ge=1, le=100)
    dry_allowed_length: int | None = Field(default=None, ge=1, lt=2**31)
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    logit_bias: dict[TokenId, Bias] | None = Field(default=None, max_length=4096)

    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | bool | None = None  # llama.cpp's short form
    grammar: str | None = None  # llama.cpp's GBNF
    guided_regex: str | None = None  # vLLM's

    keep_alive: Seconds | None = None
    cache_prompt: bool | None = None
    lane: Literal["interactive", "background", "batch"] | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None  # seconds until it is given up

    @model_validator(mode="after")
    def _at_most_one_constraint(self) -> GenerationOptions:
        shaped = self.response_format is not None and self.response_format.type != "text"
        given = [
            name
            for name in ("json_schema", "grammar", "guided_regex")
            if getattr(self, name) is not None
        ]
        if len(given) + shaped > 1:
            names = ["response_format"] * shaped + given
            raise ValueError(f"{' and '.join(names)} contradict each other: give one")
        return self
