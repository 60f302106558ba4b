"""Decide which service is started, ended or given up, and when.

A pure state machine: no process, no clock (every call is told the time, in seconds of any
monotonic clock). `Supervisor` tells it what happened and carries out `actions`.

    WAITING ──needs are ready──► STARTING ──probe──► READY
       ▲                            │ exit             │ exit
       └───── back-off is over ── RESTING ◄────────────┘
    any ──stop──► STOPPING ──exit──► STOPPED        in reverse order, one level at a time

Before the whole stack was ready once, a service that ends MAX_FIRST_ATTEMPTS times, says that its
settings are wrong, or is not ready in time, is a failure of the start. Afterwards it is restarted
for ever, with back-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

MAX_FIRST_ATTEMPTS = 3
WRONG_SETTINGS_STATUS = 2  # what services.shared.settings.read_settings exits with
MIN_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 30.0
HURRIED_DRAIN_SECONDS = 0.5  # to drain, when a second Ctrl-C came
STABLE_SECONDS = 60.0  # ready for so long, and a crash counts as the first again


class Phase(Enum):
    """Where a service stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"  # it ended; waits before the next start
    STOPPING = "stopping"
    STOPPED = "stopped"

    @property
    def has_process(self) -> bool:
        """Whether one runs in this phase."""
        return self in (Phase.STARTING, Phase.READY, Phase.STOPPING)


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """What the machine must know about a service."""

    name: str
    needs: tuple[str, ...] = ()  # must have been ready before the first start
    start_seconds: float = 60.0
    drain_seconds: float = 10.0  # from being asked to end until it is killed


@dataclass(frozen=True, slots=True)
class StartService:
    """Start this service's process."""

    name: str


@dataclass(frozen=True, slots=True)
class TerminateService:
    """Ask it to end."""

    name: str


@dataclass(frozen=True, slots=True)
class KillService:
    """End it and whatever it started."""

    name: str


Action = StartService | TerminateService | KillService


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why the stack could not start."""

    name: str
    reason: str  # "ended" | "settings" | "late"
    status: int | None = None


@dataclass(slots=True)
class _Service:
    policy: ServicePolicy
    phase: Phase = Phase.WAITING
    since: float = 0.0
    restarts: int = 0
    crashes: int = 0  # in a row, for the back-off
    until: float | None = None  # when this phase is over: rest, start or drain
    was_killed: bool = False


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """One service as others may see it."""

    name: str
    phase: Phase
    since: float
    restarts: int


@dataclass
class StackStateMachine:
    """The books of all services, in the order they are started."""

    policies: Sequence[ServicePolicy]
    failure: StartFailure | None = None
    _services: dict[str, _Service] = field(init=False)
    _was_ready: bool = False
    _stopping: bool = False
    _hurrying: bool = False

    def __post_init__(self) -> None:
        self._services = {policy.name: _Service(policy) for policy in self.policies}

    @property
    def is_ready(self) -> bool:
        """Every service is."""
        return all(s.phase is Phase.READY for s in self._services.values())

    @property
    def is_over(self) -> bool:
        """A stop was asked for and is done."""
        return self._stopping and all(s.phase is Phase.STOPPED for s in self._services.values())

    def snapshot(self) -> list[ServiceSnapshot]:
        """The services in their order."""
        return [ServiceSnapshot(n, s.phase, s.since, s.restarts) for n, s in self._services.items()]

    def stop(self, now: float) -> None:
        """Begin to end everything. Asking twice is fine."""
        self._stopping = True
        for service in self._services.values():
            if service.phase in (Phase.WAITING, Phase.RESTARTING):
                _enter(service, Phase.STOPPED, now)

    def hurry(self, now: float) -> None:
        """Drain no longer, neither this service nor the next ones."""
        self.stop(now)
        self._hurrying = True
        for service in self._services.values():
            if service.phase is Phase.STOPPING and not service.was_killed:
                service.until = now

    def became_ready(self, name: str, now: float) -> None:
        """The service's probe succeeded."""
        service = self._services[name]
        if service.phase is Phase.STARTING:
            _enter(service, Phase.READY, now)
        self._was_ready = self._was_ready or self.is_ready

    def ended(self, name: str, status: int, now: float) -> None:
        """The service's process is gone. `status` as subprocess gives it."""
        service = self._services[name]
        if self._stopping or service.phase is Phase.STOPPING:
            _enter(service, Phase.STOPPED, now)
            return
        steady = service.phase is Phase.READY and now - service.since >= STABLE_SECONDS
        service.crashes = 1 if steady else service.crashes + 1
        service.restarts += 1
        if not self._was_ready:
            if status == WRONG_SETTINGS_STATUS:
                self.failure = self.failure or StartFailure(name, "settings", status)
            elif service.crashes >= MAX_FIRST_ATTEMPTS:
                self.failure = self.failure or StartFailure(name, "ended", status)
        rest = min(MIN_BACKOFF_SECONDS * 2 ** (service.crashes - 1), MAX_BACKOFF_SECONDS)
        _enter(service, Phase.RESTARTING, now, until=now + rest)

    def actions(self, now: float) -> list[Action]:
        """What to do now. Carrying them out is assumed: ask again and they are not repeated."""
        return self._stop_actions(now) if self._stopping else self._start_actions(now)

    def next_deadline(self) -> float | None:
        """When `actions` may have something to say though nothing happened."""
        return min((s.until for s in self._services.values() if s.until is not None), default=None)

    def _start_actions(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for name, service in self._services.items():
            due = service.until is not None and now >= service.until
            if (service.phase is Phase.WAITING and self._has_needs(service)) or (
                service.phase is Phase.RESTARTING and due
            ):
                until = now + service.policy.start_seconds
                _enter(service, Phase.STARTING, now, until=until)
                actions.append(StartService(name))
            elif service.phase is Phase.STARTING and due:
                # Not ready in time: its end is reported by `ended`, like any other.
                service.until = None
                actions.append(KillService(name))
                if not self._was_ready:
                    self.failure = self.failure or StartFailure(name, "late")
        return actions

    def _stop_actions(self, now: float) -> list[Action]:
        """The last service that still runs goes first; the next one waits until it is gone."""
        for name, service in reversed(self._services.items()):
            if service.phase is Phase.STOPPED:
                continue
            if service.phase is not Phase.STOPPING:
                drain = HURRIED_DRAIN_SECONDS if self._hurrying else service.policy.drain_seconds
                _enter(service, Phase.STOPPING, now, until=now + drain)
                return [TerminateService(name)]
            if service.until is not None and now >= service.until:
                service.until, service.was_killed = None, True
                return [KillService(name)]
            return []
        return []

    def _has_needs(self, service: _Service) -> bool:
        return all(self._services[n].phase is Phase.READY for n in service.policy.needs)


def _enter(service: _Service, phase: Phase, now: float, *, until: float | None = None) -> None:
    service.phase, service.since, service.until = phase, now, until
