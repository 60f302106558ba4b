"""The errors that services raise for each other and for clients.

    SpindllError
    ├── InvalidRequest                 the request itself is wrong
    │   ├── InvalidModelName
    │   ├── ContextLengthExceeded
    │   └── InvalidSettings
    ├── NotAuthenticated, PermissionDenied
    ├── NotFound
    │   ├── ModelNotFound
    │   └── JobNotFound
    ├── Conflict                       the request is valid, but the current state forbids it
    │   └── CacheShareExceeded
    ├── EngineBusy                     the queue is full; the client may retry later
    ├── Unavailable                    temporary; the client may retry later
    │   ├── EngineUnavailable
    │   ├── RunnerDied
    │   └── ModelLoading
    ├── ModelLoadFailed                the file or the backend prevents the load
    │   └── InsufficientMemory
    ├── DeadlineExceeded, Cancelled
    ├── PullFailed                     a download has failed
    │   ├── DigestMismatch
    │   ├── DiskFull
    │   └── SourceUnavailable          a retry may succeed
    ├── InvalidModelFile               the file is not a model that we can serve
    └── InternalError                  a bug in Spindll; the client gets no details

Raise the class that names the failure. `api/errors.py` maps a class to an HTTP status;
`engine/front/rpc/server.py` and `api/dialects/grpc/server.py` map it to a gRPC status. Between our
own processes an error travels as `to_wire()`. Messages are for people: they contain no paths, no
addresses and no text of llama.cpp or of a registry; validation errors may quote the validator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class SpindllError(Exception):
    """The base class. `code` is stable and public; `param` is the request field that is wrong."""

    code: ClassVar[str] = "internal_error"
    retry_after_seconds: float | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds
        self.details: dict[str, Any] = dict(details or {})


class InvalidRequest(SpindllError):
    """A field is missing, malformed or out of range."""

    code = "invalid_request"


class InvalidModelName(InvalidRequest):
    """The text is not a valid model name."""

    code = "invalid_model_name"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and the answer, do not fit the model's context."""

    code = "context_length_exceeded"


class InvalidSettings(InvalidRequest):
    """A setting has a value that is not valid."""

    code = "invalid_settings"


class NotAuthenticated(SpindllError):
    """The request has no API key, or an unknown one."""

    code = "invalid_api_key"


class PermissionDenied(SpindllError):
    """The API key is valid but lacks the permission for this request."""

    code = "permission_denied"


class NotFound(SpindllError):
    """The requested object does not exist."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No stored model has this name."""

    code = "model_not_found"


class JobNotFound(NotFound):
    """No pull job has this id."""

    code = "job_not_found"


class Conflict(SpindllError):
    """The request contradicts the current state."""

    code = "conflict"


class CacheShareExceeded(Conflict):
    """A named prefix would pin more of the prompt cache than its tenant, or all, may."""

    code = "cache_share_exceeded"


class EngineBusy(SpindllError):
    """The engine's queue is full."""

    code = "engine_busy"
    retry_after_seconds = 2.0


class Unavailable(SpindllError):
    """The request cannot be served now; the same request may succeed later."""

    code = "unavailable"
    retry_after_seconds = 2.0


class EngineUnavailable(Unavailable):
    """The engine does not respond, or is shutting down."""

    code = "engine_unavailable"


class RunnerDied(Unavailable):
    """The model's process ended while it served this request; the engine starts a new one."""

    code = "runner_died"


class ModelLoading(Unavailable):
    """The model is being downloaded or loaded; `details["loading"]` holds the progress."""

    code = "model_loading"


class ModelLoadFailed(SpindllError):
    """The model's file or the backend prevented the load; the message gives the reason."""

    code = "model_load_failed"


class InsufficientMemory(ModelLoadFailed):
    """The model would not fit even if others were evicted; the message shows the arithmetic."""

    code = "insufficient_memory"


class DeadlineExceeded(SpindllError):
    """The request's own deadline has passed."""

    code = "deadline_exceeded"


class Cancelled(SpindllError):
    """The request was cancelled."""

    code = "cancelled"


class PullFailed(SpindllError):
    """A pull has failed; a retry without a change would fail again."""

    code = "pull_failed"


class DigestMismatch(PullFailed):
    """The bytes do not have the digest that the manifest names."""

    code = "digest_mismatch"


class DiskFull(PullFailed):
    """The disk has no room for the blobs."""

    code = "disk_full"


class SourceUnavailable(PullFailed):
    """The registry or hub failed or did not respond; a retry may succeed."""

    code = "source_unavailable"


class InvalidModelFile(SpindllError):
    """The file is not a model, or not one that our engine may load."""

    code = "invalid_model_file"


class InternalError(SpindllError):
    """A bug in Spindll. The log has the traceback; the client gets a generic message."""

    code = "internal_error"


def to_wire(error: SpindllError) -> dict[str, Any]:
    """The error as a JSON-ready mapping, from which `from_wire` builds an equal error."""
    wire: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.param is not None:
        wire["param"] = error.param
    if error.retry_after_seconds is not None:
        wire["retry_after_seconds"] = error.retry_after_seconds
    if error.details:
        wire["details"] = error.details
    return wire


def from_wire(wire: Mapping[str, Any]) -> SpindllError:
    """The error that `to_wire` encoded; a code unknown to this version becomes InternalError."""
    cls = _BY_CODE.get(str(wire.get("code")), InternalError)
    return cls(
        str(wire.get("message", "internal error")),
        param=wire.get("param"),
        retry_after_seconds=wire.get("retry_after_seconds"),
        details=wire.get("details"),
    )


def every_error() -> list[type[SpindllError]]:
    """All error classes, the base class first; for tests that check tables for completeness."""
    found: list[type[SpindllError]] = [SpindllError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


_BY_CODE = {cls.code: cls for cls in every_error() if cls is not SpindllError}
