"""What every JSON request body has in common: its base class, durations, and how it is parsed.

async def route(body: Annotated[ChatCompletionRequest, Depends(parse_body_as(...))]): ...
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import from_json

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class RequestBody(BaseModel):
    """The base of every request body; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=RequestBody)


def _parse_duration(value: object) -> object:
    """Ollama's keep_alive: a number of seconds, or a text such as "5m"."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError('a duration is a number of seconds or a text such as "5m"')
    return float(match[1]) * _UNIT_SECONDS[match[2]]


Seconds = Annotated[float, BeforeValidator(_parse_duration)]


def parse_body_as(model: type[B]) -> Callable[[Request], Awaitable[B]]:
    """A dependency that parses the body as JSON and raises RequestValidationError.

    It ignores the content type: curl sends `application/x-www-form-urlencoded` by default.
    """

    async def parse(request: Request) -> B:
        raw = await request.body() or b"{}"
        try:
            return model.model_validate_json(raw)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            raise RequestValidationError(problems, body=_decode_or_none(raw)) from None

    return parse


def _decode_or_none(raw: bytes) -> object:
    try:
        return from_json(raw)
    except ValueError:
        return None
