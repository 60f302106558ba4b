"""The state of a stack in DATA/run/stack.json, for other commands, and the lock of a stack.

The lock shows whether a stack exists; the file describes it. The supervisor and its guard both
hold the lock, so it is free only when both have ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise.state_machine import ServiceSnapshot
from services.shared.structs import resolved

POLL_SECONDS = 0.05

StackPhase = Literal["starting", "ready", "degraded", "stopping"]


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one service."""

    name: str
    phase: str
    pid: int | None
    restarts: int
    since: float  # the Unix time at which it entered this phase


@resolved
class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a stack."""

    pid: int  # the supervisor's
    phase: StackPhase
    host: str
    port: int
    grpc_port: int
    started_at: float
    services: tuple[ServiceState, ...] = ()
    not_ready_reason: str | None = None  # from /ready, when a chat would not succeed

    @property
    def url(self) -> str:
        """The URL of the api for a client on this computer."""
        return f"http://{connect_host(self.host)}:{self.port}"

    @property
    def addresses(self) -> str:
        """The addresses of the stack, as text for a person."""
        return f"{self.url} (gRPC on port {self.grpc_port})" if self.grpc_port else self.url


def connect_host(host: str) -> str:
    """The address to connect to, for a server that listens on `host`."""
    if host in ("0.0.0.0", "", "::"):  # noqa: S104  compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def initial_state(options: StackOptions) -> StackState:
    """The state before any service has been started; this process is the supervisor."""
    return StackState(
        pid=os.getpid(),
        phase="starting",
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        started_at=time.time(),
    )


def next_state(
    before: StackState,
    *,
    phase: StackPhase,
    snapshot: Iterable[ServiceSnapshot],
    pids: Mapping[str, int],
    not_ready_reason: str | None,
) -> StackState:
    """The new state; equal to `before` when nothing has changed."""
    known = {service.name: service for service in before.services}
    services = []
    for service in snapshot:
        old = known.get(service.name)
        same = (
            old is not None
            and old.phase == service.phase.value
            and old.restarts == service.restarts
        )
        since = old.since if old is not None and same else time.time()
        services.append(
            ServiceState(
                name=service.name,
                phase=service.phase.value,
                pid=pids.get(service.name) if service.phase.has_process else None,
                restarts=service.restarts,
                since=since,
            )
        )
    return msgspec.structs.replace(
        before, phase=phase, services=tuple(services), not_ready_reason=not_ready_reason
    )


def save(paths: StackPaths, state: StackState) -> None:
    """Replace the state file atomically."""
    partial = paths.state_file.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(state))
    partial.replace(paths.state_file)


def read(paths: StackPaths) -> StackState | None:
    """The state that the last supervisor wrote, whether or not it is still running."""
    try:
        return msgspec.json.decode(paths.state_file.read_bytes(), type=StackState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def read_running(paths: StackPaths) -> StackState | None:
    """The state of the running stack; None when no stack is running."""
    if not is_locked(paths):
        return None
    return read(paths)


def take_lock(paths: StackPaths) -> int | None:
    """Take the lock: an open descriptor that holds it, or None when another process has it.

    Closing the descriptor releases the lock.
    """
    descriptor = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(paths: StackPaths) -> bool:
    """Whether a stack is running or being cleaned up."""
    if not paths.lock_file.exists():
        return False
    descriptor = take_lock(paths)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def wait_until_gone(paths: StackPaths, seconds: float) -> bool:
    """Wait until the stack has ended; whether it did so within the time."""
    deadline = time.monotonic() + seconds
    while is_locked(paths):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process is running. A zombie is not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def remove_stale_files(paths: StackPaths, sockets: tuple[Path, ...]) -> None:
    """Remove the files that a killed stack left behind. Call it with the lock held."""
    for path in (paths.state_file, *sockets):
        path.unlink(missing_ok=True)
