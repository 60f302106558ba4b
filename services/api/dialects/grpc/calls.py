"""What surrounds every gRPC call: its request id, its line in the log, its error as a status.

Trailing metadata have the `x-request-id`, and describe an error: `spindll-error-code` (several
error classes share a gRPC status), `spindll-error-field`, `retry-after` in seconds, and
`spindll-loading`, the progress of a model that is being downloaded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import Message

from services.api.middleware.access_log import VALID_ID
from services.shared import errors
from services.shared.errors import SpindllError
from services.shared.logs import request_id

logger = logging.getLogger(__name__)

# Trailing metadata above its limit (8 KiB, by default) end the connection, and every call on it.
# gRPC sends a character as up to 12 bytes.
_MAX_MESSAGE_CHARS = 500

Context = grpc.aio.ServicerContext[Message, Message]

GRPC_STATUS: Mapping[type[SpindllError], grpc.StatusCode] = {
    errors.SpindllError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EngineBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ModelLoadFailed: grpc.StatusCode.INTERNAL,
    errors.InsufficientMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
}


class Call:
    """The facts about one call that are logged, under the names of the HTTP access log."""

    def __init__(self, name: str, client: str, given_id: str) -> None:
        self.id = given_id if VALID_ID.fullmatch(given_id) else f"req_{secrets.token_hex(12)}"
        self.client = client
        self.principal_id: str | None = None
        self._name = name
        self._started_at = time.perf_counter()

    def trailers(self) -> tuple[tuple[str, str], ...]:
        """The trailing metadata of every call."""
        return (("x-request-id", self.id),)

    def log(self, status: grpc.StatusCode) -> None:
        """Write the line, at level DEBUG for a stranger, who could fill the log."""
        logger.log(
            logging.DEBUG if self.principal_id is None else logging.INFO,
            "request",
            extra={
                "method": "gRPC",
                "route": self._name,
                "status": status.name,
                "seconds": round(time.perf_counter() - self._started_at, 4),
                "client": self.client,
                "principal": self.principal_id or "-",
            },
        )


@asynccontextmanager
async def serve_call(name: str, client: str, context: Context) -> AsyncIterator[Call]:
    """Turn the error of a call into a status, and log the call when it is over.

    The request id is the client's `x-request-id`, or a new one; a client that sent none finds it in
    the trailing metadata. An unexpected error is sent without its message.
    """
    metadata = dict(context.invocation_metadata() or ())
    call = Call(name, client, str(metadata.get("x-request-id", "")))
    request_id.set(call.id)
    context.set_trailing_metadata(call.trailers())
    status = grpc.StatusCode.CANCELLED
    try:
        yield call
        status = grpc.StatusCode.OK
    except SpindllError as error:
        status = find_status(error)
        context.set_trailing_metadata(call.trailers() + build_trailers(error))
        await context.abort(status, _shorten(error.message))
    except grpc.aio.AbortError:
        status = context.code()
        raise
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except Exception:  # a servicer must survive every call
        logger.exception("unexpected error")
        status = grpc.StatusCode.INTERNAL
        await context.abort(status, "internal error")
    finally:
        call.log(status)


def find_status(error: SpindllError) -> grpc.StatusCode:
    """The gRPC status of an error, by the nearest of its classes in the table."""
    return next(GRPC_STATUS[cls] for cls in type(error).__mro__ if cls in GRPC_STATUS)


def build_trailers(error: SpindllError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that describe an error; the progress of a download is JSON."""
    trailers = [("spindll-error-code", error.code)]
    if error.param:
        trailers.append(("spindll-error-field", error.param))
    if error.retry_after_seconds is not None:
        trailers.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
    if "loading" in error.details:
        trailers.append(("spindll-loading", msgspec.json.encode(error.details["loading"]).decode()))
    return tuple(trailers)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE_CHARS else f"{text[: _MAX_MESSAGE_CHARS - 1]}…"
