"""How an error looks in the dialect of a request, chosen by its path.

Errors happen before a route is known, and where there is none: a client of Ollama's or Anthropic's
API gets even a 401 or 404 in the shape that it can read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """What every shape is made of. `details` are further members of OpenAI's inner object."""

    message: str
    status: int
    code: str | None
    param: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


Shape = Callable[[ErrorFacts], dict[str, Any]]

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
    499: "cancelled",
    501: "not_supported_error",
    503: "unavailable_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def build_openai_error(facts: ErrorFacts) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    error_type = _OPENAI_TYPES.get(facts.status) or (
        "invalid_request_error" if facts.status < 500 else "server_error"
    )
    error = {
        "message": facts.message,
        "type": error_type,
        "param": facts.param or None,
        "code": facts.code,
    }
    return {"error": {**facts.details, **error}}


def build_anthropic_error(facts: ErrorFacts) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}}`."""
    error_type = _ANTHROPIC_TYPES.get(facts.status) or (
        "invalid_request_error" if facts.status < 500 else "api_error"
    )
    return {"type": "error", "error": {"type": error_type, "message": facts.message}}


def build_ollama_error(facts: ErrorFacts) -> dict[str, Any]:
    """`{"error": "…"}`."""
    return {"error": facts.message}


def find_shape(path: str) -> Shape:
    """The shape for the errors of a path; OpenAI's where no other dialect has the path."""
    if path == "/api" or path.startswith("/api/"):
        return build_ollama_error
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return build_anthropic_error
    return build_openai_error
