"""How a start reports to the person who typed `up`: at once, or through a pipe when detached.

Over the pipe goes one JSON object a line: {"kind": "progress" | "ready" | "failed", ...}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import IO, Literal, Protocol

import msgspec

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise.state_file import StackState
from services.shared.structs import resolved


@resolved
class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened during a start."""

    kind: Literal["progress", "ready", "failed"]
    text: str
    details: str = ""


class Reporter(Protocol):
    """Who is told. Each may be called any number of times; nothing raises."""

    def report(self, report: Report) -> None:
        """Pass it on."""


class TerminalReporter:
    """The person is watching."""

    def report(self, report: Report) -> None:
        """A line on stderr while it starts, what matters then on stdout."""
        show(report)


class PipeReporter:
    """The person's `up --detach` waits at the other end, until the start is decided."""

    def __init__(self, descriptor: int) -> None:
        self._file: IO[bytes] | None = os.fdopen(descriptor, "wb", buffering=0)

    def report(self, report: Report) -> None:
        """Write it; the last report closes the pipe."""
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode(report) + b"\n")
        except BrokenPipeError:  # nobody waits any more; the stack goes on
            self._file = None
            return
        if report.kind != "progress":
            self._file.close()
            self._file = None


def show(report: Report) -> None:
    """Print it for a person."""
    if report.kind == "ready":
        print(report.text, flush=True)
    elif report.kind == "progress":
        print(report.text, file=sys.stderr, flush=True)


def read_reports(descriptor: int) -> Iterator[Report]:
    """What the other end of the pipe says, until it is closed."""
    with os.fdopen(descriptor, "rb") as file:
        for line in file:
            yield msgspec.json.decode(line, type=Report)


def failure_report(error: CommandError) -> Report:
    """The start did not succeed."""
    return Report(kind="failed", text=error.message, details=error.details)


def ready_text(state: StackState, paths: StackPaths) -> str:
    """The address, the keys, and a line to paste."""
    lines = [
        f"Spindll is ready at {state.addresses}",
        f"  keys   {paths.user_key}",
        f"         {paths.admin_key} (may also pull and delete)",
        f"  logs   {paths.logs_dir}",
    ]
    if state.not_ready_reason:
        return "\n".join([*lines, f"It cannot chat yet: {state.not_ready_reason}."])
    return "\n".join([*lines, "Try it:", "  " + curl_line(state, paths)])


def curl_line(state: StackState, paths: StackPaths) -> str:
    """A chat, ready to be pasted into a shell."""
    key = str(paths.user_key).replace("'", "'\\''")
    body = (
        '{"model":"tiny","temperature":0,'
        '"messages":[{"role":"user","content":"What is the capital of France?"}]}'
    )
    return (
        f"curl {state.url}/v1/chat/completions"
        f" -H \"Authorization: Bearer $(cat '{key}')\""
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
