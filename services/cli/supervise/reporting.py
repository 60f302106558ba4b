"""Reports of a start: to the terminal, or through a pipe from the detached supervisor to `up`.

The pipe carries one JSON object per line: {"kind": "progress" | "ready" | "failed", ...}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, Protocol

import msgspec

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise.stack import ROOT
from services.cli.supervise.state_file import StackState
from services.shared.keychain import refers_to_keychain
from services.shared.structs import resolved


@resolved
class StartReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step or the result of a start."""

    kind: Literal["progress", "ready", "failed"]
    text: str
    details: str = ""


class Reporter(Protocol):
    """Receives reports, any number of them; `report` does not raise."""

    def report(self, report: StartReport) -> None:
        """Show the report, or pass it on."""


class TerminalReporter:
    """Prints reports to the terminal."""

    def report(self, report: StartReport) -> None:
        """Print progress to stderr and the final report to stdout."""
        print_report(report)


class PipeReporter:
    """Writes reports to a pipe; `up --detach` reads the other end until the final report."""

    def __init__(self, descriptor: int) -> None:
        self._file: IO[bytes] | None = os.fdopen(descriptor, "wb", buffering=0)

    def report(self, report: StartReport) -> None:
        """Write a report; the final one closes the pipe."""
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode(report) + b"\n")
        except BrokenPipeError:  # `up` has ended; the stack continues
            self._file = None
            return
        if report.kind != "progress":
            self._file.close()
            self._file = None


def print_report(report: StartReport) -> None:
    """Print a report; a failure is not printed here, since it becomes a CommandError."""
    if report.kind == "ready":
        print(report.text, flush=True)
    elif report.kind == "progress":
        print(report.text, file=sys.stderr, flush=True)


def read_reports(descriptor: int) -> Iterator[StartReport]:
    """The reports in the pipe, until it is closed."""
    with os.fdopen(descriptor, "rb") as file:
        for line in file:
            yield msgspec.json.decode(line, type=StartReport)


def failure_report(error: CommandError) -> StartReport:
    """The final report of a start that failed."""
    return StartReport(kind="failed", text=error.message, details=error.details)


def ready_text(state: StackState, paths: StackPaths) -> str:
    """The address, the keys, and a command to try."""
    lines = [
        f"Spindll is ready at {state.addresses}",
        f"  keys   {paths.user_key}",
        f"         {paths.admin_key} (may also pull and delete models)",
        f"  logs   {paths.logs_dir}",
    ]
    if state.not_ready_reason:
        return "\n".join([*lines, f"Not ready for chats yet: {state.not_ready_reason}."])
    return "\n".join([*lines, "Try it:", "  " + curl_line(state, paths)])


def curl_line(state: StackState, paths: StackPaths) -> str:
    """A curl command that sends a chat, ready to paste into a shell."""
    print_key = f"cat {_quote(paths.user_key)}"
    if refers_to_keychain(paths.user_key):
        print_key = f"{_quote(ROOT / 'macos' / 'spindll')} key"
    body = (
        '{"model":"tiny","temperature":0,'
        '"messages":[{"role":"user","content":"What is the capital of France?"}]}'
    )
    return (
        f"curl {state.url}/v1/chat/completions"
        f' -H "Authorization: Bearer $({print_key})"'
        f" -H 'Content-Type: application/json' -d '{body}'"
    )


def _quote(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"
