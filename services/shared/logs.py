"""Log events: a constant text with its values in `extra`, written as one line.

    logger.info("model ready", extra={"model": name, "seconds": 1.2})

as text    12:00:01 INFO    engine engine.front.models.lifecycle: model ready model=tiny seconds=1.2
as json    {"time": "…", "level": "INFO", "service": "engine", "event": "model ready", …}

Do not log prompts, answers, API keys or tokens.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line logs too, and must start without importing pydantic
    from services.shared.settings import LogFormat, LogLevel

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_STANDARD_FIELDS = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None))
    # color_message: uvicorn's copy of the message with escape codes
    | {"message": 0, "asctime": 0, "taskName": 0, "color_message": 0}
)


def set_up_logs(service: str, *, level: LogLevel, fmt: LogFormat) -> None:
    """Send all log events of this process to stderr. Call it once, at the start of main()."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service) if fmt == "json" else TextLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "grpc", "asyncio", "rq.scheduler", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the caller passed in `extra`, and the id of the current request, if any."""
    fields = {k: v for k, v in vars(record).items() if k not in _STANDARD_FIELDS}
    current = request_id.get()
    if current is not None:
        fields.setdefault("request_id", current)
    return fields


class TextLines(logging.Formatter):
    """Log lines for a person at a terminal."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line, and below it the traceback, if any."""
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        name = record.name.removeprefix("services.")
        fields = "".join(f" {k}={v}" for k, v in extra_fields(record).items())
        line = f"{time} {record.levelname:<7} {self._service} {name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """Log lines for a log collector."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object per line."""
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)
