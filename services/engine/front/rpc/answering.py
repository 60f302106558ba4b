"""How a unary call ends: with its answer, or with our error.

An error is sent as a gRPC status, with our own error in the trailing metadata `spindll-error` (see
engine.proto).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import grpc

from services.shared.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    EngineBusy,
    InsufficientMemory,
    InternalError,
    InvalidRequest,
    ModelLoadFailed,
    NotAuthenticated,
    NotFound,
    PermissionDenied,
    SpindllError,
    Unavailable,
    to_wire,
)

ERROR_KEY = "spindll-error"

# An error has the status of the first class here that it is an instance of.
GRPC_STATUS: dict[type[SpindllError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    EngineBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    InsufficientMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ModelLoadFailed: grpc.StatusCode.FAILED_PRECONDITION,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Cancelled: grpc.StatusCode.CANCELLED,
    SpindllError: grpc.StatusCode.INTERNAL,
}

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def answer(work: Awaitable[T], context: Any) -> T:
    """Return the answer, or end the call with our error."""
    try:
        return await work
    except SpindllError as error:
        failure = error
    except Exception:
        logger.exception("unexpected error in an rpc")
        failure = InternalError("internal error")
    return await _abort(context, failure)


async def _abort(context: Any, error: SpindllError) -> NoReturn:
    wire = quote(json.dumps(to_wire(error)))
    await context.abort(to_grpc_status(error), error.message, ((ERROR_KEY, wire),))
    raise AssertionError("context.abort has not raised")


def to_grpc_status(error: SpindllError) -> grpc.StatusCode:
    """The gRPC status that an error is sent with."""
    return next(status for cls, status in GRPC_STATUS.items() if isinstance(error, cls))
