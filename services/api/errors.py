"""How what went wrong looks over HTTP: one status per error class, one body shape, OpenAI's.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "n", "code": "…", …}}

An error's `details` are further members of the inner object (`models`, `loading`). The rest of the
api raises `services.shared.errors`; nothing else in it knows a status.
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

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
    499: "cancelled",
    501: "not_supported_error",
    503: "unavailable_error",
}
# What a client's automatic second try cannot mend; the official OpenAI clients obey the header.
_FINAL = (errors.ModelLoadFailed, errors.InvalidModelFile, errors.DiskFull)
_CODES = {404: "unknown_route", 405: "method_not_allowed", 413: "request_too_large"}


def status_of(error: errors.SpindllError) -> int:
    """The HTTP status of an error, by its nearest class in the table."""
    return next(HTTP_STATUS[cls] for cls in type(error).__mro__ if cls in HTTP_STATUS)


def body_of(error: errors.SpindllError) -> dict[str, Any]:
    """The JSON object a client gets, also inside a stream."""
    return _body(
        error.message, status_of(error), code=error.code, param=error.param, more=error.details
    )


def response_of(error: errors.SpindllError) -> Response:
    """The whole answer, with the headers that tell a client what to do next."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, errors.NotAuthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, _FINAL):
        headers["x-should-retry"] = "false"
    return _json(body_of(error), status_of(error), headers)


def install(app: FastAPI) -> None:
    """Answer every error of this app, ours and the framework's, in OpenAI's shape."""
    app.add_exception_handler(errors.SpindllError, _on_spindll_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def path_of(location: Iterable[int | str], body: object) -> str:
    """Pydantic's error location as a person writes it: `messages[0].content`.

    Tags of unions, which are no part of the request, are left out.
    """
    text, here = "", body
    for part in location:
        if isinstance(part, int) and isinstance(here, list):
            text += f"[{part}]"
            here = here[part] if part < len(here) else None
        elif isinstance(part, str) and isinstance(here, dict):
            text += f".{part}" if text else part
            here = here.get(part)
    return text


async def _on_spindll_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SpindllError)
    if status_of(error) == 500:
        logger.error("request failed", extra={"code": error.code, "reason": error.message})
    return response_of(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _json(_validation_body(error), 400, {})


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = {
        404: f"there is no {request.url.path}",
        405: f"{request.method} is not allowed on {request.url.path}",
        413: "the request body is too large",
    }.get(status, str(error.detail))
    return _json(_body(message, status, code=_CODES.get(status)), status, error.headers or {})


def _validation_body(error: RequestValidationError) -> dict[str, Any]:
    first = _most_telling(error.errors())
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "")
        return _body(f"the body is not valid JSON: {why}", 400, code="invalid_json")
    location = first["loc"][1:] if first["loc"][:1] in (("body",), ("query",)) else first["loc"]
    param = path_of(location, error.body) or ".".join(str(part) for part in location)
    message = first["msg"].removeprefix("Value error, ")
    return _body(
        f"{param}: {message}" if param else message, 400, code="invalid_request", param=param
    )


def _most_telling(problems: Sequence[Any]) -> Any:
    """The first problem; of a union's, the one that came furthest."""
    first = problems[0]
    prefix = first["loc"][:-1]
    return max(
        (problem for problem in problems if problem["loc"][: len(prefix)] == prefix),
        key=lambda problem: len(problem["loc"]),
    )


def _body(
    message: str,
    status: int,
    *,
    code: str | None,
    param: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param or None, "code": code}
    return {"error": {**(more or {}), **error}}


def _json(body: dict[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers=dict(headers),
        media_type="application/json",
    )
