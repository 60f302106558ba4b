"""Explain in one line why the stack could not start, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.cli.supervise.state_machine import StartFailure

# First match wins.
_REASONS = (
    (
        r"No space left on device|Errno 28",
        "the disk is full: free some space, or choose another folder with --data",
    ),
    (
        r"Address already in use|Errno 98|Errno 48|Failed to bind|Connection in use",
        "another program has just taken a port: choose others with --port and --grpc-port",
    ),
    (
        (
            r"Can't handle RDB format|Bad file format reading the append only file"
            r"|Unexpected end of file reading the append only file"
        ),
        (
            "Redis cannot read its file in DATA/redis; a newer version of Redis wrote it, or a full"
            " disk truncated it: move that folder away (it holds the queue, not the models)"
        ),
    ),
    (r"No module named '([\w.]+)'", r"a package is missing ({0}): run ./spindll setup"),
    (
        r"Read-only file system|Permission denied",
        "a file cannot be written: check the owner of DATA",
    ),
    (r"Cannot allocate memory|MemoryError", "there is not enough memory"),
)


def explain(failure: StartFailure, lines: Sequence[str]) -> str:
    """One line about a service that did not start. `lines` are the last lines of its log."""
    text = "\n".join(lines)
    if failure.reason == "settings":
        wrong = [line for line in lines if line.startswith("SPINDLL_")]
        return f"the {failure.name} does not accept its settings: {'; '.join(wrong) or 'see below'}"
    for pattern, reason in _REASONS:
        if match := re.search(pattern, text, re.IGNORECASE):
            return f"the {failure.name} cannot start: {reason.format(*match.groups())}"
    if failure.reason == "timeout":
        return f"the {failure.name} was started but did not become ready in time"
    end = _describe_status(failure.status)
    return f"the {failure.name} ended during the start {end}; see its last lines below"


def _describe_status(status: int | None) -> str:
    if status is not None and status < 0:
        return f"by signal {-status}"
    return f"with status {status}"
