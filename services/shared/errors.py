"""Everything that can go wrong and has a name of its own.

    SpindllError
    ├── InvalidRequest                 the request itself is wrong
    │   ├── InvalidModelName
    │   ├── ContextLengthExceeded
    │   └── InvalidSettings
    ├── NotAuthenticated, PermissionDenied
    ├── NotFound
    │   ├── ModelNotFound
    │   └── JobNotFound
    ├── Conflict                       the request is fine, the state of things is not
    ├── EngineBusy                     the queue is full: later
    ├── Unavailable                    not now: later
    │   ├── EngineUnavailable
    │   ├── RunnerDied
    │   └── ModelLoading
    ├── ModelLoadFailed                the file or the backend said no
    │   └── InsufficientMemory
    ├── DeadlineExceeded, Cancelled
    ├── PullFailed                     a download ended for good
    │   ├── DigestMismatch
    │   ├── DiskFull
    │   └── SourceUnavailable          worth another try
    ├── InvalidModelFile               what was downloaded is not a model we can serve
    └── InternalError                  our bug; says nothing to the client

Raise what happened; `api/errors.py` turns a class into an HTTP status, `engine/front/rpc/server.py` and
`api/dialects/grpc/server.py` into a gRPC one. On our own wires an error travels as `to_wire()`.
Messages are for people: no paths, no addresses, no vendor text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class SpindllError(Exception):
    """The root. `code` is stable and public; `param` names the offending field of a request."""

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
    """Not a name any source could know."""

    code = "invalid_model_name"


class ContextLengthExceeded(InvalidRequest):
    """The prompt (or prompt and answer) cannot fit the model's context."""

    code = "context_length_exceeded"


class InvalidSettings(InvalidRequest):
    """A setting has a value nobody can act on."""

    code = "invalid_settings"


class NotAuthenticated(SpindllError):
    """No key, or one we do not know."""

    code = "invalid_api_key"


class PermissionDenied(SpindllError):
    """The key is good, the wish is not its to have."""

    code = "permission_denied"


class NotFound(SpindllError):
    """There is no such thing."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No manifest of that name."""

    code = "model_not_found"


class JobNotFound(NotFound):
    """No pull job of that id."""

    code = "job_not_found"


class Conflict(SpindllError):
    """What was asked for contradicts the state of things."""

    code = "conflict"


class EngineBusy(SpindllError):
    """The queue is full."""

    code = "engine_busy"
    retry_after_seconds = 2.0


class Unavailable(SpindllError):
    """Cannot be done now; the same request may work later."""

    code = "unavailable"
    retry_after_seconds = 2.0


class EngineUnavailable(Unavailable):
    """The engine does not answer, or is shutting down."""

    code = "engine_unavailable"


class RunnerDied(Unavailable):
    """The model's process ended under this request; a new one is on its way."""

    code = "runner_died"


class ModelLoading(Unavailable):
    """The model is being downloaded or loaded; `details["loading"]` tells how far it is."""

    code = "model_loading"


class ModelLoadFailed(SpindllError):
    """The model's file or the backend refused; the message says why."""

    code = "model_load_failed"


class InsufficientMemory(ModelLoadFailed):
    """Cannot fit, whatever were evicted; the message shows the arithmetic."""

    code = "insufficient_memory"


class DeadlineExceeded(SpindllError):
    """The request's own deadline passed."""

    code = "deadline_exceeded"


class Cancelled(SpindllError):
    """Somebody cancelled it."""

    code = "cancelled"


class PullFailed(SpindllError):
    """A pull ended for good; trying again without a change would end the same way."""

    code = "pull_failed"


class DigestMismatch(PullFailed):
    """The bytes are not the ones the manifest promised."""

    code = "digest_mismatch"


class DiskFull(PullFailed):
    """No room for the blobs."""

    code = "disk_full"


class SourceUnavailable(PullFailed):
    """The registry or hub did not answer well; worth another try."""

    code = "source_unavailable"


class InvalidModelFile(SpindllError):
    """A file that is not a model, or one no engine of ours may load."""

    code = "invalid_model_file"


class InternalError(SpindllError):
    """Our bug. The log has the story, the client gets an apology."""

    code = "internal_error"


def to_wire(error: SpindllError) -> dict[str, Any]:
    """A JSON-ready mapping that `from_wire` turns back into an equal error."""
    wire: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.param is not None:
        wire["param"] = error.param
    if error.retry_after_seconds is not None:
        wire["retry_after_seconds"] = error.retry_after_seconds
    if error.details:
        wire["details"] = error.details
    return wire


def from_wire(wire: Mapping[str, Any]) -> SpindllError:
    """The error `to_wire` described; an unknown code (a newer peer's) becomes an InternalError."""
    cls = _BY_CODE.get(str(wire.get("code")), InternalError)
    return cls(
        str(wire.get("message", "internal error")),
        param=wire.get("param"),
        retry_after_seconds=wire.get("retry_after_seconds"),
        details=wire.get("details"),
    )


def every_error() -> list[type[SpindllError]]:
    """All classes of the tree, root first; for tables that must be total."""
    found: list[type[SpindllError]] = [SpindllError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found


_BY_CODE = {cls.code: cls for cls in every_error() if cls is not SpindllError}
