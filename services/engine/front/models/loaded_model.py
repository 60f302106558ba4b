"""One model of the pool: its state, its requests, its runner.

The reports of a runner go straight to its model. A model decides nothing about other models. Event
loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from services.engine.core import LoadConfig, ModelInfo, TextPiece
from services.engine.front.models.client_request import ClientRequest, WaitingRequests
from services.engine.front.models.model_state import TRANSITIONS, ModelState
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.front.models.residency import Residency, ResidencyRules, has_residency_left
from services.engine.front.models.runner_requests import Reply, RunnerRequests
from services.engine.front.process.launcher import RunnerHandle, RunnerLauncher, error_from_report
from services.engine.memory.estimate import Footprint, add_embeddings, raise_reserve
from services.engine.memory.probe import MemoryProbe, measure_free_bytes
from services.engine.messages import commands, reports
from services.shared.errors import ModelLoadFailed, SpindllError
from services.shared.store.manifest import Manifest


class LoadedModel:
    """See the module. The pool creates it, starts its load and removes it.

    `on_requests_finished` is called after some of its requests have ended. `on_runner_crashed` is
    called with the reason when its runner ends by itself while the model is ready or stopping.
    """

    def __init__(
        self,
        manifest: Manifest,
        settings: ModelSettings,
        probe: MemoryProbe,
        *,
        on_requests_finished: Callable[[LoadedModel], None],
        on_runner_crashed: Callable[[LoadedModel, str], None],
        now: float,
    ) -> None:
        self.manifest = manifest
        self.key = manifest.digest
        self.name = manifest.name
        self.settings = settings
        self._state = ModelState.LOADING
        self._probe = probe
        self._on_requests_finished = on_requests_finished
        self._on_runner_crashed = on_runner_crashed
        # Set when the memory queue grants the load, until the process has ended.
        self.has_committed_memory = False
        self.footprint: Footprint | None = None
        self.config: LoadConfig | None = None
        self.runner: RunnerHandle | None = None
        self.info: ModelInfo | None = None
        self.heartbeat: reports.Heartbeat | None = None
        self.load_task: asyncio.Task[None] | None = None
        self.has_started_runner = False
        self.has_embedding_context = False
        self.load_progress = 0.0
        self._exit_reason: str | None = None  # why its process ended before the load was over
        self._loaded: asyncio.Future[ModelInfo] | None = None  # the result of the runner's load
        self.last_free_bytes: dict[str, int] = {}  # by pool, measured while its process lived
        self.residency = Residency(loaded_at=now, load_seconds=0.0, last_used_at=now)
        self.keep_alive_seconds = settings.keep_alive_seconds
        self._may_stay = asyncio.Event()  # no other model waits for its memory
        self._may_stay.set()
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ready.add_done_callback(_retrieve_exception)
        self.removed: asyncio.Future[None] = loop.create_future()  # from the pool
        self.waiter_count = 0  # callers that wait for it, besides the waiting requests
        self.waiting = WaitingRequests(manifest.name)
        self._running = RunnerRequests()

    # ---- its state

    @property
    def state(self) -> ModelState:
        """The state; see the chart in model_state.py."""
        return self._state

    def move_to(self, state: ModelState) -> None:
        """Change the state along an arrow of the chart. Any other change is a bug."""
        assert (self._state, state) in TRANSITIONS, f"{self._state} -> {state}"
        self._state = state

    @property
    def is_busy(self) -> bool:
        """Whether stopping it now would interrupt a request, a load or an unload."""
        return not self._running.is_empty or self._state is not ModelState.READY

    @property
    def running_count(self) -> int:
        """The requests that its runner has, including those queued there."""
        return self._running.running_count

    @property
    def has_waiters(self) -> bool:
        """Whether a request or a caller waits for it to take requests."""
        return bool(self.waiting) or self.waiter_count > 0

    @property
    def is_pinned(self) -> bool:
        """Whether it is never evicted and never unloaded for being idle."""
        return bool(self.settings.pin)

    @property
    def expires_at(self) -> float | None:
        """The loop time at which it is unloaded if no request comes until then; None: never."""
        keep = self.keep_alive_seconds
        if self.is_pinned or self._state is not ModelState.READY or keep is None or keep < 0:
            return None
        return self.residency.last_used_at + keep

    @property
    def must_yield(self) -> bool:
        """Whether another model waits for its memory."""
        return not self._may_stay.is_set()

    @must_yield.setter
    def must_yield(self, value: bool) -> None:
        if value:
            self._may_stay.clear()
        else:
            self._may_stay.set()

    async def wait_until_yielded(self) -> None:
        """Wait until it has left for another model, or need not leave any more."""
        stays = asyncio.ensure_future(self._may_stay.wait())
        try:
            await asyncio.wait((stays, self.removed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stays.cancel()

    def accepts_requests(self, rules: ResidencyRules, now: float) -> bool:
        """Whether a new request may go to its runner now."""
        if self._state is not ModelState.READY:
            return False
        return not self.must_yield or has_residency_left(self.residency, rules, now)

    def update_settings(self, settings: ModelSettings) -> None:
        """Apply those of the settings that need no new load."""
        self.settings = settings.runtime_fields().with_fallback(self.settings)
        if settings.keep_alive_seconds is not None:
            self.keep_alive_seconds = settings.keep_alive_seconds

    # ---- its requests

    def submit(self, request: ClientRequest, now: float) -> None:
        """Give a request to the runner."""
        assert self.runner is not None
        self.keep_alive_seconds = request.choose_keep_alive(self.keep_alive_seconds)
        self._running.submit(self.runner, request, now)

    def submit_waiting(self, now: float) -> None:
        """Give all waiting requests to the runner, in the order of their arrival."""
        for request in self.waiting.take_all():
            if not request.has_ended:
                self.submit(request, now)

    def cancel(self, request: ClientRequest) -> None:
        """Stop a request: at once if it waits, within a step if it runs."""
        if self.waiting.remove(request):
            request.cancel()
        elif self.runner is not None:
            self._running.cancel(self.runner, request)

    def fail_waiting(self, error: SpindllError) -> None:
        """End all waiting requests with an error, and raise it for the callers that wait."""
        for request in self.waiting.take_all():
            request.fail(error)
        if not self.ready.done():
            self.ready.set_exception(error)

    def fail_running(self, error: SpindllError) -> int:
        """End all requests of the runner with an error; how many they were."""
        return self._running.fail_all(self.runner, error)

    async def tokenize(
        self, pieces: Sequence[TextPiece], *, add_special: bool, principal: str
    ) -> tuple[int, ...]:
        """The token ids of a text, from the runner. RunnerDied, InvalidRequest."""
        with self._ask() as runner:
            return await self._running.tokenize(
                runner, pieces, add_special=add_special, principal=principal
            )

    async def detokenize(self, tokens: Sequence[int], *, principal: str) -> str:
        """The text of tokens, from the runner. As `tokenize`."""
        with self._ask() as runner:
            return await self._running.detokenize(runner, tokens, principal=principal)

    async def locate(self, command: commands.Locate) -> reports.Located:
        """What is stored of a prompt, from the runner. RunnerDied, InvalidRequest."""
        with self._ask() as runner:
            return await self._running.locate(runner, command)

    async def embed(self, command: commands.Embed) -> reports.Embedded:
        """The vectors of texts, from the runner. RunnerDied, and what RunnerRequests.embed raises."""
        with self._ask() as runner:
            return await self._running.embed(runner, command)

    async def wait_until_idle(self) -> None:
        """Wait until the runner has no request."""
        await self._running.wait_until_idle()

    @contextmanager
    def _ask(self) -> Iterator[RunnerHandle]:
        assert self.runner is not None
        try:
            yield self.runner
        finally:
            self._on_requests_finished(self)

    # ---- its runner

    async def start_runner(self, launcher: RunnerLauncher, config: LoadConfig) -> None:
        """Start a runner and wait until it has loaded the model. ModelLoadFailed."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._exit_reason, self.has_started_runner = None, True
        self.has_embedding_context = config.embeds
        self.runner = await launcher.start(config, self.on_report, self.on_exit)
        self.info = await self._loaded
        if self._exit_reason is not None:  # it ended after its report, before this task went on
            raise ModelLoadFailed(f"the process of {self.name} {self._exit_reason}")

    def on_report(self, report: reports.Report) -> None:
        """Take a report of the runner. The hot path: called after every step of it."""
        if isinstance(report, reports.StepReport):
            if self._running.on_step(report.events):
                self._on_requests_finished(self)
        elif isinstance(report, reports.Heartbeat):
            self._on_heartbeat(report)
        elif isinstance(report, Reply):
            self._running.on_reply(report)
        elif isinstance(report, reports.MemoryAdded):
            self._on_memory_added(report)
        elif isinstance(report, reports.Progress):
            self.load_progress = report.fraction
        elif self._loaded is not None and not self._loaded.done():
            if isinstance(report, reports.Ready):
                self._loaded.set_result(report.info)
            elif isinstance(report, reports.LoadFailed):
                self._loaded.set_exception(error_from_report(report))

    def _on_heartbeat(self, heartbeat: reports.Heartbeat) -> None:
        self.heartbeat = heartbeat
        self.last_free_bytes = measure_free_bytes(self._probe)
        if self.runner is not None and self.footprint is not None:
            # What its requests take counts too, such as their grammars. It is hardly given back.
            used_bytes = self._probe.measure_process(self.runner.pid)
            self.footprint = raise_reserve(self.footprint, used_bytes or 0)

    def _on_memory_added(self, report: reports.MemoryAdded) -> None:
        """The context for embeddings was created, for which memory is committed already."""
        self.has_embedding_context = True
        if self.footprint is not None:
            self.footprint = add_embeddings(self.footprint, report.pool_bytes)

    def on_exit(self, reason: str) -> None:
        """The runner's process has ended, by itself or because it was stopped."""
        self._exit_reason = reason
        if self._loaded is not None and not self._loaded.done():
            sentence = f"the process of {self.name} {reason} while it loaded the model"
            self._loaded.set_exception(ModelLoadFailed(sentence))
        elif self.runner is not None and self._state in (ModelState.READY, ModelState.STOPPING):
            self.runner = None
            self._on_runner_crashed(self, reason)


def _retrieve_exception(future: asyncio.Future[None]) -> None:
    """Keep asyncio from logging a load that fails while no caller awaits `ready`.

    Each waiting request gets the error as an event.
    """
    if not future.cancelled():
        future.exception()
