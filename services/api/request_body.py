"""What every JSON request body has in common: its base class, durations, and how it is parsed.

async def route(body: Annotated[ChatCompletionRequest, Depends(parse_body_as(...))]): ...
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from services.api.parse_budget import MAX_PARSED_BYTES, ParseLease, estimate_parsed_bytes
from services.shared.errors import InvalidRequest

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class RequestBody(BaseModel):
    """The base of every request body; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=RequestBody)

OTHER_NAME = "x-other-name-of"


def other_name_of(name: str) -> Any:
    """A field that is another name of a field. It counts where the field is absent or null.

    An alias would not do: pydantic takes the first one that is there, also if it is null.
    """
    return Field(default=None, json_schema_extra={OTHER_NAME: name})


def _parse_duration(value: object) -> object:
    """Ollama's keep_alive: a number of seconds, or a text such as "5m"."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError('a duration is a number of seconds or a text such as "5m"')
    return float(match[1]) * _UNIT_SECONDS[match[2]]


Seconds = Annotated[float, BeforeValidator(_parse_duration)]


class BodyParser(Generic[B]):
    """A dependency that parses the body as JSON and raises RequestValidationError.

    It ignores the content type: curl sends `application/x-www-form-urlencoded` by default. The
    memory of the body counts until the response was sent, see `parse_budget`.
    """

    def __init__(self, model: type[B]) -> None:
        self.model = model

    async def __call__(self, request: Request) -> AsyncIterator[B]:
        """The body of the request."""
        principal = request.state.principal.id
        with request.app.state.parts.parse_budget.lease(principal) as lease:
            yield _validate(self.model, await _read(request, lease), lease)


def parse_body_as(model: type[B]) -> BodyParser[B]:
    """The dependency for a body."""
    return BodyParser(model)


async def _read(request: Request, lease: ParseLease) -> bytearray:
    raw = bytearray()  # it grows in place: a list of chunks would be copied when it is joined
    async for chunk in request.stream():
        raw += chunk
        lease.resize(len(raw))
    return raw or bytearray(b"{}")


def _validate(model: type[B], raw: bytearray, lease: ParseLease) -> B:
    size = estimate_parsed_bytes(raw)
    if size > MAX_PARSED_BYTES:
        raise InvalidRequest("the body is too large: it has too much text, or too many values")
    lease.resize(size)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(problems, body=_decode_or_none(raw)) from None


def _decode_or_none(raw: bytearray) -> object:
    try:
        return from_json(raw)
    except ValueError:
        return None
