"""What the supervisor tells other commands about its stack: DATA/run/stack.json, and a lock.

The lock tells whether a stack is there; the file tells what it is. The supervisor and its guard
hold the lock together, so it is free only when no process of the stack is left.
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
    """One service as the supervisor sees it."""

    name: str
    phase: str
    pid: int | None
    restarts: int
    since: float  # Unix time it entered this phase


@resolved
class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole stack."""

    pid: int  # the supervisor's
    phase: StackPhase
    host: str
    port: int
    grpc_port: int
    started_at: float
    services: tuple[ServiceState, ...] = ()
    not_ready_reason: str | None = None  # what /ready misses, in its own words

    @property
    def url(self) -> str:
        """Where a client on this computer reaches the api."""
        return f"http://{connect_host(self.host)}:{self.port}"

    @property
    def addresses(self) -> str:
        """All ways in, for a person."""
        return f"{self.url} (gRPC on port {self.grpc_port})" if self.grpc_port else self.url


def connect_host(host: str) -> str:
    """The address to connect to where `host` is one to listen on."""
    if host in ("0.0.0.0", "", "::"):  # noqa: S104  compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def initial_state(options: StackOptions) -> StackState:
    """What this process, now the supervisor, says before it has started anything."""
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
    """The state as it has become; equal to `before` where nothing happened."""
    known = {service.name: service for service in before.services}
    services = []
    for one in snapshot:
        old = known.get(one.name)
        same = old is not None and old.phase == one.phase.value and old.restarts == one.restarts
        since = old.since if old is not None and same else time.time()
        services.append(
            ServiceState(
                name=one.name,
                phase=one.phase.value,
                pid=pids.get(one.name) if one.phase.has_process else None,
                restarts=one.restarts,
                since=since,
            )
        )
    return msgspec.structs.replace(
        before, phase=phase, services=tuple(services), not_ready_reason=not_ready_reason
    )


def save(paths: StackPaths, state: StackState) -> None:
    """Replace the file in one step."""
    partial = paths.state.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(state))
    partial.replace(paths.state)


def read(paths: StackPaths) -> StackState | None:
    """What the last supervisor wrote, whether or not it is still there."""
    try:
        return msgspec.json.decode(paths.state.read_bytes(), type=StackState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def read_running(paths: StackPaths) -> StackState | None:
    """The stack that runs now; None when none does."""
    if not is_locked(paths):
        return None
    return read(paths)


def take_lock(paths: StackPaths) -> int | None:
    """An open descriptor that holds the lock, or None when somebody has it. Close it to let go."""
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(paths: StackPaths) -> bool:
    """Whether a stack, or what is left of one, is there."""
    if not paths.lock.exists():
        return False
    descriptor = take_lock(paths)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def wait_until_gone(paths: StackPaths, seconds: float) -> bool:
    """Whether the stack's last process ended within the time."""
    deadline = time.monotonic() + seconds
    while is_locked(paths):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_alive(pid: int) -> bool:
    """Whether the process runs. One that ended and that nobody has waited for does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def remove_stale_files(paths: StackPaths, sockets: tuple[Path, ...]) -> None:
    """Remove what a stack that was killed left behind. Only with the lock held."""
    for path in (paths.state, *sockets):
        path.unlink(missing_ok=True)
