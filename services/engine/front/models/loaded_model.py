"""One model that the pool loads, serves or unloads: its state, its requests, its runner.

    (new) ──► LOADING ◄──► WAITING        LOADING: plans the load, then runs it
                 │                        WAITING: for memory, in the memory queue
                 ▼
               READY ──► STOPPING

The arrows of this chart are the only changes of state; `move_to` is the only code that makes one.
From every state the pool may remove the model from its table.

A runner's reports go straight to its model. The model decides nothing about other models. Event
loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Enum

from services.engine import messages
from services.engine.core import LoadConfig, ModelInfo, TextPiece
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.models.request import Request, WaitReason
from services.engine.front.models.residency import Residency, TurnRules, is_in_turn
from services.engine.front.process.launcher import Link, Program, load_error
from services.engine.memory.estimate import Footprint
from services.engine.memory.probe import Probe, free_bytes
from services.shared.errors import (
    DeadlineExceeded,
    EngineBusy,
    ModelLoadFailed,
    SpindllError,
    from_wire,
)
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)


class State(Enum):
    """What a model of the pool does. A model that backs off after crashes is not in the pool."""

    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


TRANSITIONS = frozenset(
    {
        (State.LOADING, State.WAITING),
        (State.WAITING, State.LOADING),
        (State.LOADING, State.READY),
        (State.READY, State.STOPPING),
    }
)


class Model:
    """See the module. The pool creates it, starts its load and removes it.

    `on_requests_finished` and `on_runner_crashed` are called for a ready model, the second one also
    while it is stopping.
    """

    def __init__(
        self,
        manifest: Manifest,
        settings: ModelSettings,
        probe: Probe,
        *,
        on_requests_finished: Callable[[Model], None],
        on_runner_crashed: Callable[[Model, str], None],
        now: float,
    ) -> None:
        self.manifest = manifest
        self.key = manifest.digest
        self.name = manifest.name
        self.settings = settings
        self._state = State.LOADING
        self._probe = probe
        self._on_requests_finished = on_requests_finished
        self._on_runner_crashed = on_runner_crashed
        self.has_memory = False  # promised: from its admission until its process has ended
        self.footprint: Footprint | None = None
        self.config: LoadConfig | None = None
        self.link: Link | None = None
        self.info: ModelInfo | None = None
        self.beat: messages.Heartbeat | None = None
        self.bring_up: asyncio.Task[None] | None = None
        self.has_started = False  # a process was started for it
        self.progress = 0.0
        self._exit_reason: str | None = None  # why its process ended before the load was over
        self._loaded: asyncio.Future[ModelInfo] | None = None  # what its runner reports as ready
        self.free_bytes: dict[str, int] = {}  # by pool, measured while its process lived
        self.residency = Residency(loaded_at=now, load_seconds=0.0, last_used=now)
        self.keep_alive_seconds = settings.keep_alive_seconds
        self.must_yield = False  # somebody waits for its memory
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ready.add_done_callback(_seen)
        self.gone: asyncio.Future[None] = loop.create_future()  # it left the table of models
        self.awaiting = 0  # who wants it loaded besides the waiting requests
        self._idle: asyncio.Future[None] | None = None
        self.waiting: dict[Request, None] = {}  # ordered; a dict, for leaving early
        self._running: dict[int, Request] = {}
        self._tokenizing: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._next_id = 1

    # ---- what it is

    @property
    def state(self) -> State:
        """The state; see the chart of the module."""
        return self._state

    def move_to(self, state: State) -> None:
        """Follow one arrow of the module's chart; another one is a bug of ours."""
        assert (self._state, state) in TRANSITIONS, f"{self._state} -> {state}"
        self._state = state

    @property
    def is_busy(self) -> bool:
        """Whether somebody would notice its end."""
        return bool(self._running or self._tokenizing) or self.state is not State.READY

    @property
    def running_count(self) -> int:
        """Requests its runner has, queued ones there included."""
        return len(self._running)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it to become ready."""
        return bool(self.waiting) or self.awaiting > 0

    @property
    def is_pinned(self) -> bool:
        """Never evicted, never unloaded for being idle."""
        return bool(self.settings.pin)

    @property
    def expires_at(self) -> float | None:
        """Loop time at which it is unloaded if nothing more is asked of it; None: never."""
        keep = self.keep_alive_seconds
        if self.is_pinned or self.state is not State.READY or keep is None or keep < 0:
            return None
        return self.residency.last_used + keep

    def accepts(self, rules: TurnRules, now: float) -> bool:
        """Whether a new request may go to its runner now."""
        if self.state is not State.READY:
            return False
        return not self.must_yield or is_in_turn(self.residency, rules, now)

    def resettle(self, said: ModelSettings) -> None:
        """Take over what can change without loading again."""
        self.settings = said.residency().over(self.settings)
        if said.keep_alive_seconds is not None:
            self.keep_alive_seconds = said.keep_alive_seconds

    # ---- its requests

    def enqueue(self, request: Request, *, most: int) -> None:
        """Let a request wait until the model is ready. EngineBusy when too many do."""
        if len(self.waiting) >= most:
            raise EngineBusy(f"{len(self.waiting)} requests wait for {self.name} already")
        self.waiting[request] = None

    def announce(self, before: int, reason: WaitReason) -> int:
        """Tell the waiting ones their place, after `before` others; how many that makes."""
        for position, request in enumerate(self.waiting, before + 1):
            request.wait(position, reason)
        return before + len(self.waiting)

    def hand_over(self, request: Request, now: float) -> None:
        """Give a request to the runner."""
        assert self.link is not None
        number = self._number()
        self._running[number] = request
        if request.keep_alive_seconds is not None:
            self.keep_alive_seconds = request.keep_alive_seconds
        self.link.send(request.for_runner(number, now))

    def hand_over_waiting(self, now: float) -> None:
        """Give all that waited to the runner, in the order they came."""
        waiting, self.waiting = self.waiting, {}
        for request in waiting:
            if not request.has_ended:
                self.hand_over(request, now)

    def cancel(self, request: Request) -> None:
        """Stop one: at once where it waits, within a step where it runs."""
        if request in self.waiting:
            del self.waiting[request]
            request.cancel()
        elif request.runner_id in self._running and self.link is not None:
            self.link.send(messages.Cancel((request.runner_id,)))

    def give_up_overdue(self, now: float) -> None:
        """End those that waited longer than they may; a runner looks after its own."""
        overdue = [r for r in self.waiting if r.deadline_at is not None and r.deadline_at <= now]
        for request in overdue:
            del self.waiting[request]
            request.fail(DeadlineExceeded(f"{self.name} was not ready in time"))

    def fail_waiting(self, error: SpindllError) -> None:
        """End all that wait, and whoever awaits `ready`."""
        waiting, self.waiting = self.waiting, {}
        for request in waiting:
            request.fail(error)
        if not self.ready.done():
            self.ready.set_exception(error)

    def fail_running(self, error: SpindllError) -> int:
        """End all its runner had, each once; how many those were."""
        running, self._running = self._running, {}
        self._wake_idle()
        if running and self.link is not None:
            self.link.send(messages.Cancel(tuple(running)))
        for request in running.values():
            request.fail(error)
        tokenizing, self._tokenizing = self._tokenizing, {}
        for answer in tokenizing.values():
            if not answer.done():
                answer.set_exception(error)
        return len(running)

    async def tokenize(self, pieces: Sequence[TextPiece], *, add_special: bool) -> tuple[int, ...]:
        """Token ids, from the runner. RunnerDied, InvalidRequest."""
        assert self.link is not None
        number = self._number()
        answer: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._tokenizing[number] = answer
        self.link.send(messages.Tokenize(number, tuple(pieces), add_special))
        try:
            return await answer
        finally:
            self._tokenizing.pop(number, None)

    async def idle(self) -> None:
        """Wait until its runner has no request left."""
        while self._running:
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    # ---- its runner

    async def start_runner(self, launcher: Program, config: LoadConfig) -> None:
        """Start a runner and wait until it has loaded the model. ModelLoadFailed."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._exit_reason, self.has_started = None, True
        self.link = await launcher.start(config, self.on_report, self.on_exit)
        self.info = await self._loaded
        if self._exit_reason is not None:  # the process ended before this task resumed
            raise ModelLoadFailed(f"the process of {self.name} {self._exit_reason}")

    def on_report(self, report: messages.Report) -> None:
        """Take one report of the runner; called for each step of it."""
        if isinstance(report, messages.StepReport):
            if self._on_step(report.events):
                self._on_requests_finished(self)
        elif isinstance(report, messages.Heartbeat):
            self.beat = report
            self.free_bytes = free_bytes(self._probe)
        elif isinstance(report, messages.Tokenized):
            self._on_tokenized(report)
        elif isinstance(report, messages.Progress):
            self.progress = report.fraction
        elif self._loaded is not None and not self._loaded.done():
            if isinstance(report, messages.Ready):
                self._loaded.set_result(report.info)
            else:
                self._loaded.set_exception(load_error(report))

    def on_exit(self, reason: str) -> None:
        """The process of the runner has ended, by itself or because it was stopped."""
        self._exit_reason = reason
        if self._loaded is not None and not self._loaded.done():
            sentence = f"the process of {self.name} {reason} while it loaded the model"
            self._loaded.set_exception(ModelLoadFailed(sentence))
        elif self.link is not None and self._state in (State.READY, State.STOPPING):
            self.link = None
            self._on_runner_crashed(self, reason)

    def _on_step(self, events: Sequence[messages.RequestEvent]) -> bool:
        """Pass on what happened; True when a request ended."""
        has_ended = False
        running = self._running
        for happening in events:
            request = running.get(happening.id)
            if request is None:
                continue
            request.tell(happening)
            if request.has_ended:
                del running[happening.id]
                has_ended = True
        if has_ended and not running:
            self._wake_idle()
        return has_ended

    def _on_tokenized(self, report: messages.Tokenized) -> None:
        """The answer to `tokenize`."""
        answer = self._tokenizing.get(report.id)
        if answer is None or answer.done():
            return
        if report.error is not None:
            answer.set_exception(from_wire(report.error))
        else:
            answer.set_result(report.ids)

    def _wake_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id


def _seen(future: asyncio.Future[None]) -> None:
    """A load may fail while nobody awaits it: its waiters were told one by one."""
    if not future.cancelled():
        future.exception()
