"""How errors look over HTTP: one status per error class, and a body in the shape of the dialect.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "n", "code": "…", …}}

That is OpenAI's; error_shapes.py has the others. The `details` of an error are further members of
the inner object (`models`, `loading`). The rest of the api raises `services.shared.errors`; the
HTTP status of an error class is decided here only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from services.api.error_shapes import ErrorFacts, build_openai_error, find_shape
from services.shared import errors

logger = logging.getLogger(__name__)

HTTP_STATUS: Mapping[type[errors.SpindllError], int] = {
    errors.SpindllError: 500,
    errors.InvalidRequest: 400,
    errors.InvalidModelName: 400,
    errors.ContextLengthExceeded: 400,
    errors.InvalidSettings: 400,
    errors.NotAuthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.JobNotFound: 404,
    errors.Conflict: 409,
    errors.CacheShareExceeded: 409,
    errors.EngineBusy: 429,
    errors.Unavailable: 503,
    errors.EngineUnavailable: 503,
    errors.RunnerDied: 503,
    errors.ModelLoading: 503,
    errors.ModelLoadFailed: 500,
    errors.InsufficientMemory: 507,
    errors.DeadlineExceeded: 504,
    errors.Cancelled: 499,
    errors.PullFailed: 502,
    errors.DigestMismatch: 502,
    errors.DiskFull: 507,
    errors.SourceUnavailable: 502,
    errors.InvalidModelFile: 500,
    errors.InternalError: 500,
}

# A retry cannot succeed after these; the official OpenAI clients obey `x-should-retry`.
# A deadline is the service's or the client's own: a retry would take as long again.
_NOT_RETRYABLE = (
    errors.ModelLoadFailed,
    errors.InvalidModelFile,
    errors.DiskFull,
    errors.DeadlineExceeded,
)
_CODES = {404: "unknown_route", 405: "method_not_allowed", 413: "request_too_large"}


class ErrorResponse(Response):
    """An error as JSON, in the shape that belongs to the path of the request it is sent for."""

    media_type = "application/json"

    def __init__(self, facts: ErrorFacts, headers: Mapping[str, str]) -> None:
        body = msgspec.json.encode(build_openai_error(facts))
        super().__init__(body, status_code=facts.status, headers=headers)
        self._facts = facts
        self._given_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        shape = find_shape(scope["path"])
        if shape is build_openai_error:
            await super().__call__(scope, receive, send)
            return
        response = Response(
            msgspec.json.encode(shape(self._facts)),
            status_code=self.status_code,
            headers=self._given_headers,
            media_type=self.media_type,
        )
        await response(scope, receive, send)


def find_status(error: errors.SpindllError) -> int:
    """The HTTP status of an error, by the nearest of its classes in the table."""
    return next(HTTP_STATUS[cls] for cls in type(error).__mro__ if cls in HTTP_STATUS)


def build_error_body(error: errors.SpindllError) -> dict[str, Any]:
    """The JSON object that a client of OpenAI's API receives, in a response or inside a stream."""
    return build_openai_error(_collect_facts(error))


def build_error_response(error: errors.SpindllError) -> Response:
    """The response, with the headers that clients act on: when to retry, how to authenticate."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, errors.NotAuthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, _NOT_RETRYABLE):
        headers["x-should-retry"] = "false"
    return ErrorResponse(_collect_facts(error), headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of this app, our own and the framework's, in the shape of its path."""
    app.add_exception_handler(errors.SpindllError, _on_spindll_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def format_location(location: Iterable[int | str], body: object) -> str:
    """Pydantic's error location as a path into the body: `messages[0].content`.

    The tags of unions, which are not part of the request, are left out, and so is the place in a
    list that the schema has put around a single value; a last part that the body lacks is the field
    that is missing.
    """
    text, here = "", body
    parts = list(location)
    for number, part in enumerate(parts):
        is_tag = isinstance(here, dict) and part not in here and number < len(parts) - 1
        if is_tag:
            continue
        if isinstance(part, int) and isinstance(here, list):
            inner = here[part] if part < len(here) else None
            if not isinstance(inner, list | dict) and _has_number(parts[number + 1 :]):
                continue  # a list of lists was expected, and this is the inner one
            text += f"[{part}]"
            here = inner
        elif isinstance(part, str) and isinstance(here, dict):
            text += f".{part}" if text else part
            here = here.get(part)
    return text


def _has_number(parts: Iterable[int | str]) -> bool:
    return any(isinstance(part, int) for part in parts)


async def _on_spindll_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SpindllError)
    if find_status(error) == 500:
        logger.error("request failed", extra={"code": error.code, "reason": error.message})
    return build_error_response(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return ErrorResponse(_read_validation_error(error), {})


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = {
        404: f"there is no route {request.url.path}",
        405: f"{request.method} is not allowed on {request.url.path}",
        413: "the request body is too large",
    }.get(status, str(error.detail))
    facts = ErrorFacts(message, status, _CODES.get(status))
    return ErrorResponse(facts, error.headers or {})


def _read_validation_error(error: RequestValidationError) -> ErrorFacts:
    first = _find_most_specific(error.errors())
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return ErrorFacts(f"the body is not valid JSON: {reason}", 400, "invalid_json")
    location = first["loc"]
    # A field of the body may be named `query` too.
    if location == ("body",) or (len(location) > 1 and location[0] in ("body", "query")):
        location = location[1:]
    param = format_location(location, error.body) or ".".join(str(part) for part in location)
    message = first["msg"].removeprefix("Value error, ")
    text = f"{param}: {message}" if param else message
    return ErrorFacts(text, 400, "invalid_request", param)


def _find_most_specific(problems: Sequence[Any]) -> Any:
    """The first problem; among those of a union, the one with the deepest location."""
    first = problems[0]
    prefix = first["loc"][:-1]
    return max(
        (problem for problem in problems if problem["loc"][: len(prefix)] == prefix),
        key=lambda problem: len(problem["loc"]),
    )


def _collect_facts(error: errors.SpindllError) -> ErrorFacts:
    return ErrorFacts(error.message, find_status(error), error.code, error.param, error.details)
