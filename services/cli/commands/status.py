"""`status`: the state of each process, and whether the stack is ready for chats."""

from __future__ import annotations

import time

import typer

from services.cli import formatting
from services.cli.api_client import ApiClient
from services.cli.connection import Connection, read_local_key
from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import state_file


def status(paths: StackPaths) -> None:
    """Print the state. Exit status 1 when no stack is running or a chat would not succeed."""
    state = state_file.read_running(paths)
    if state is None:
        print(f"not running (data: {paths.data_dir})")
        raise typer.Exit(1)
    is_ready, missing, problems = _readiness(state, paths)
    for line in format_status(state, paths, now=time.time()):
        print(line)
    print("ready: a chat would succeed" if is_ready else f"not ready: {missing}")
    for problem in problems:
        print(formatting.printable(f"problem: {problem}"))
    if not is_ready:
        raise typer.Exit(1)


def format_status(state: state_file.StackState, paths: StackPaths, *, now: float) -> list[str]:
    """The lines of the status: the address, the supervisor and each service."""
    age = formatting.format_duration(now - state.started_at)
    rows = [
        f"{state.addresses}, data in {paths.data_dir}",
        f"{'supervisor':<11}{state.phase:<11}process {state.pid:<9}{age}",
    ]
    for service in state.services:
        pid = f"process {service.pid}" if service.pid else ""
        again = f", restarted {service.restarts} times" if service.restarts else ""
        since = formatting.format_duration(now - service.since)
        rows.append(f"{service.name:<11}{service.phase:<11}{pid:<17}{since}{again}")
    return rows


def _readiness(
    state: state_file.StackState, paths: StackPaths
) -> tuple[bool, str, tuple[str, ...]]:
    """Whether a chat would succeed, what is missing, and the problems, which need a key."""
    try:
        with ApiClient(Connection(state.url, read_local_key(paths))) as api:
            is_ready, answer = api.readiness()
    except CommandError as error:
        return False, error.message, ()
    missing = "; ".join(str(item) for item in answer.get("missing") or ())
    problems = tuple(str(item) for item in answer.get("problems") or ())
    return is_ready, missing or "the api gives no reason", problems
