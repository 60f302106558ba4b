"""Decide which service to start, end or give up, and when.

A pure state machine: it starts no process and reads no clock. Every call gets the time in seconds,
of any monotonic clock. `StackSupervisor` records events and executes `next_actions`.

    WAITING ──needs are ready──► STARTING ──probe──► READY
                                  ▲    │ exit          │ exit
                                  │    ▼               │
               back-off is over ──┴─ RESTARTING ◄──────┘
    any ──stop──► STOPPING ──exit──► STOPPED        in reverse order, one service at a time

The start fails if, before all services have been ready once, a service ends MAX_FIRST_ATTEMPTS
times, reports wrong settings or is not ready in time. After that a service that ends is restarted
without limit, with back-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

MAX_FIRST_ATTEMPTS = 3
WRONG_SETTINGS_STATUS = 2  # the exit status of services.shared.settings.read_settings
MIN_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 30.0
HURRIED_DRAIN_SECONDS = 0.5  # the drain time after a second Ctrl-C
STABLE_SECONDS = 60.0  # a crash after this time as ready counts as the first one again


class Phase(Enum):
    """The phase of a service."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"  # it ended, and waits for the end of its back-off
    STOPPING = "stopping"
    STOPPED = "stopped"

    @property
    def has_process(self) -> bool:
        """Whether the service has a process in this phase."""
        return self in (Phase.STARTING, Phase.READY, Phase.STOPPING)


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """How to start and stop a service."""

    name: str
    needs: tuple[str, ...] = ()  # services that must be ready before the first start
    start_seconds: float = 60.0  # the time it has to become ready
    drain_seconds: float = 10.0  # the time between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class StartService:
    """Start the process of this service."""

    name: str


@dataclass(frozen=True, slots=True)
class TerminateService:
    """Ask this service to end."""

    name: str


@dataclass(frozen=True, slots=True)
class KillService:
    """Kill this service and every process that it started."""

    name: str


Action = StartService | TerminateService | KillService


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why the stack could not start."""

    name: str
    reason: str  # "ended" | "settings" | "timeout"
    status: int | None = None


@dataclass(slots=True)
class _Service:
    policy: ServicePolicy
    phase: Phase = Phase.WAITING
    since: float = 0.0
    restarts: int = 0
    crashes: int = 0  # in a row, for the back-off
    deadline: float | None = None  # of this phase: the end of the back-off, start or drain
    was_killed: bool = False


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """A read-only copy of the state of one service."""

    name: str
    phase: Phase
    since: float
    restarts: int


@dataclass
class StackStateMachine:
    """The states of all services, in the order in which they are started."""

    policies: Sequence[ServicePolicy]
    failure: StartFailure | None = None
    _services: dict[str, _Service] = field(init=False)
    _was_ready: bool = False
    _is_stopping: bool = False
    _is_stopping_quickly: bool = False

    def __post_init__(self) -> None:
        self._services = {policy.name: _Service(policy) for policy in self.policies}

    @property
    def is_ready(self) -> bool:
        """Whether every service is ready."""
        return all(s.phase is Phase.READY for s in self._services.values())

    @property
    def is_stopped(self) -> bool:
        """Whether a requested stop is complete."""
        return self._is_stopping and all(s.phase is Phase.STOPPED for s in self._services.values())

    def snapshot(self) -> list[ServiceSnapshot]:
        """The states of the services, in the order in which they are started."""
        return [ServiceSnapshot(n, s.phase, s.since, s.restarts) for n, s in self._services.items()]

    def stop(self, now: float) -> None:
        """Begin to end all services. May be called twice."""
        self._is_stopping = True
        for service in self._services.values():
            if service.phase in (Phase.WAITING, Phase.RESTARTING):
                _enter(service, Phase.STOPPED, now)

    def stop_quickly(self, now: float) -> None:
        """Stop with a short drain, for the service that is stopping now and for the others."""
        self.stop(now)
        self._is_stopping_quickly = True
        for service in self._services.values():
            if service.phase is Phase.STOPPING and not service.was_killed:
                service.deadline = now

    def record_ready(self, name: str, now: float) -> None:
        """The service's probe succeeded."""
        service = self._services[name]
        if service.phase is Phase.STARTING:
            _enter(service, Phase.READY, now)
        self._was_ready = self._was_ready or self.is_ready

    def record_end(self, name: str, status: int, now: float) -> None:
        """The service's process has ended. `status` as in subprocess: negative for a signal."""
        service = self._services[name]
        if self._is_stopping or service.phase is Phase.STOPPING:
            _enter(service, Phase.STOPPED, now)
            return
        was_stable = service.phase is Phase.READY and now - service.since >= STABLE_SECONDS
        service.crashes = 1 if was_stable else service.crashes + 1
        service.restarts += 1
        if not self._was_ready:
            if status == WRONG_SETTINGS_STATUS:
                self.failure = self.failure or StartFailure(name, "settings", status)
            elif service.crashes >= MAX_FIRST_ATTEMPTS:
                self.failure = self.failure or StartFailure(name, "ended", status)
        backoff = min(MIN_BACKOFF_SECONDS * 2 ** (service.crashes - 1), MAX_BACKOFF_SECONDS)
        _enter(service, Phase.RESTARTING, now, deadline=now + backoff)

    def next_actions(self, now: float) -> list[Action]:
        """The actions to execute now. The caller must execute them: they are not returned again."""
        return self._stop_actions(now) if self._is_stopping else self._start_actions(now)

    def next_deadline(self) -> float | None:
        """The time at which `next_actions` may return something without a further event."""
        return min(
            (s.deadline for s in self._services.values() if s.deadline is not None), default=None
        )

    def _start_actions(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for name, service in self._services.items():
            due = service.deadline is not None and now >= service.deadline
            if (service.phase is Phase.WAITING and self._has_needs(service)) or (
                service.phase is Phase.RESTARTING and due
            ):
                deadline = now + service.policy.start_seconds
                _enter(service, Phase.STARTING, now, deadline=deadline)
                actions.append(StartService(name))
            elif service.phase is Phase.STARTING and due:
                # Not ready in time. Its end is recorded by `record_end`, like any other.
                service.deadline = None
                actions.append(KillService(name))
                if not self._was_ready:
                    self.failure = self.failure or StartFailure(name, "timeout")
        return actions

    def _stop_actions(self, now: float) -> list[Action]:
        """End the last service that is running; the one before it must wait until it has ended."""
        for name, service in reversed(self._services.items()):
            if service.phase is Phase.STOPPED:
                continue
            if service.phase is not Phase.STOPPING:
                drain = (
                    HURRIED_DRAIN_SECONDS
                    if self._is_stopping_quickly
                    else service.policy.drain_seconds
                )
                _enter(service, Phase.STOPPING, now, deadline=now + drain)
                return [TerminateService(name)]
            if service.deadline is not None and now >= service.deadline:
                service.deadline, service.was_killed = None, True
                return [KillService(name)]
            return []
        return []

    def _has_needs(self, service: _Service) -> bool:
        return all(self._services[n].phase is Phase.READY for n in service.policy.needs)


def _enter(service: _Service, phase: Phase, now: float, *, deadline: float | None = None) -> None:
    service.phase, service.since, service.deadline = phase, now, deadline
