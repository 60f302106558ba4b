"""A machine with fake memory and fake runners, for a real ModelPool in virtual time.

It records a violation when the runners take more memory than there is, and when a runner is stopped
while it has requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from services.engine import messages
from services.engine.core import (
    FinishReason,
    LoadConfig,
    MemoryPolicy,
    ModelInfo,
    Sampling,
    Stopping,
)
from services.engine.front.models.client_request import ClientRequest, QueuePosition
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.model_settings import ModelSettings, ModelSettingsRegistry
from services.engine.front.models.pool import ModelPool
from services.engine.front.models.residency import ResidencyRules
from services.engine.memory.budget import Budget
from services.engine.memory.estimate import EstimateCache
from services.engine.memory.probe import HOST, MemoryPool
from services.shared.errors import SpindllError
from services.shared.memory_assumptions import DEVICE_CONTEXT_BYTES, PROCESS_BYTES
from services.shared.store.manifest import Description, FileRole, Manifest, StoredFile
from tests.engine.load_defaults import make_load_defaults

GIB = 1 << 30


@dataclass(frozen=True)
class FakeModel:
    """A model of the fake machine. All its bytes are on the one device."""

    name: str
    size_bytes: int
    load_seconds: float = 2.0
    service_seconds: float = 1.0  # for each request
    out_of_memory_loads: int = 0  # its first loads fail like this

    @property
    def manifest(self) -> Manifest:
        digest = "sha256:" + self.name.encode().hex().rjust(64, "0")
        file = StoredFile(role=FileRole.MODEL, path="m.gguf", digest=digest, size_bytes=1)
        return Manifest(
            name=f"{self.name}:latest",
            source="a test",
            created_at=0.0,
            files=(file,),
            description=Description(format="gguf", architecture="llama", context_length=4096),
        )


class FakeMachine:
    """A machine with one device. It is both the RunnerLauncher and the MemoryProbe of a pool.

    Without a device, models are in its main memory.
    """

    def __init__(
        self, total_bytes: int, *, release_seconds: float = 0.3, has_device: bool = True
    ) -> None:
        self.total_bytes = total_bytes
        self.has_device = has_device
        # For the driver to free the memory of a process that ended.
        self.release_seconds = release_seconds
        self.models: dict[str, FakeModel] = {}
        self.used_bytes: dict[int, int] = {}  # by the pid of a runner
        self.other_processes_bytes = 0
        self.max_used_bytes = 0  # by all runners together
        self.loads: list[str] = []
        self.stops: list[str] = []
        self.violations: list[str] = []
        self.runners: dict[str, FakeRunner] = {}

    def measure_pools(self) -> tuple[MemoryPool, ...]:
        used = sum(self.used_bytes.values()) + self.other_processes_bytes
        free = max(self.total_bytes - used, 0)
        if not self.has_device:
            return (MemoryPool("host", "host", self.total_bytes, free),)
        return (
            MemoryPool("host", "host", 1 << 40, 1 << 40),
            MemoryPool("cuda0", "cuda", self.total_bytes, free),
        )

    def allocate(self, pid: int, size: int) -> None:
        self.used_bytes[pid] = size
        used = sum(self.used_bytes.values())
        self.max_used_bytes = max(self.max_used_bytes, used)
        if used + self.other_processes_bytes > self.total_bytes:
            self.violations.append(f"{used} of {self.total_bytes} bytes used")

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_exit: Callable[[str], None],
    ) -> FakeRunner:
        model = self.models[config.model_path]
        self.loads.append(model.name)
        runner = FakeRunner(self, model, len(self.loads) + (1 << 23), config, on_report, on_exit)
        self.runners[model.name] = runner
        return runner

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        return self.build_info(self.models[config.model_path], config)

    def build_info(self, model: FakeModel, config: LoadConfig) -> ModelInfo:
        # The plan commits these sizes and the pool's reserve; a runner takes exactly all of that.
        pool, reserve = (
            ("cuda0", DEVICE_CONTEXT_BYTES) if self.has_device else (HOST, PROCESS_BYTES)
        )
        return ModelInfo(
            architecture="llama",
            vocab_size=10,
            context_length=config.context_length,
            trained_context_length=4096,
            max_sequences=4,
            memory_policy=MemoryPolicy.DENSE,
            gpu_layers=10 if self.has_device else 0,
            backend="fake",
            weights_bytes=model.size_bytes - reserve,
            kv_bytes=0,
            compute_bytes=0,
            pool_bytes={pool: model.size_bytes - reserve},
        )


class FakeRunner:
    """A runner that takes its memory while it loads and answers each request after a time."""

    def __init__(
        self,
        machine: FakeMachine,
        model: FakeModel,
        pid: int,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_exit: Callable[[str], None],
    ) -> None:
        self.pid = pid
        self._machine = machine
        self._model = model
        self._on_report = on_report
        self._on_exit = on_exit
        self._running: dict[int, asyncio.TimerHandle] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load_task = asyncio.create_task(self._load(config))

    async def _load(self, config: LoadConfig) -> None:
        for part in (0.3, 0.7, 1.0):
            self._machine.allocate(self.pid, int(self._model.size_bytes * part))
            await asyncio.sleep(self._model.load_seconds / 3)
        if self._machine.loads.count(self._model.name) <= self._model.out_of_memory_loads:
            self._on_report(messages.LoadFailed("insufficient_memory", "out of memory"))
            return
        self._on_report(messages.Ready(self._machine.build_info(self._model, config)))

    def send(self, command: messages.Command) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(command, messages.Submit):
            timer = loop.call_later(self._model.service_seconds, self._finish, command.id)
            self._running[command.id] = timer
        elif isinstance(command, messages.Cancel):
            for id_ in command.ids:
                if (running := self._running.pop(id_, None)) is not None:
                    running.cancel()
                    loop.call_soon(self._report_finished, id_, FinishReason.CANCELLED)

    def _finish(self, id_: int) -> None:
        self._running.pop(id_, None)
        self._report_finished(id_, FinishReason.STOP)

    def _report_finished(self, id_: int, reason: FinishReason) -> None:
        if not self._ended.done():
            self._on_report(
                messages.StepReport([messages.Finished(id_, 0, reason, 1, 0, 1, 0.0, 0.0, 0.0)])
            )

    def kill(self, reason: str) -> None:
        if self._ended.done():
            return
        self._load_task.cancel()
        for timer in self._running.values():
            timer.cancel()
        self._ended.set_result(None)
        loop = asyncio.get_running_loop()
        if self._machine.has_device:
            release = self._machine.used_bytes.pop
            loop.call_later(self._machine.release_seconds, release, self.pid, 0)
        else:  # the kernel frees main memory before it reports the end of a process
            self._machine.used_bytes.pop(self.pid, None)
        loop.call_soon(self._on_exit, reason)

    async def stop(self, *, grace_seconds: float) -> None:
        if self._running:
            self._machine.violations.append(f"{self._model.name} was stopped while busy")
        self._machine.stops.append(self._model.name)
        try:
            await asyncio.sleep(0.1)
        finally:
            self.kill("exited")


class RecordingListener:
    """A RequestListener for one request that records its events."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.ended = asyncio.get_running_loop().create_future()

    def put_delta(self, request_id: int, delta: messages.Delta) -> None:
        self.events.append(delta)

    def put(self, request_id: int, item: object) -> None:
        self.events.append(item)

    def end(self, request_id: int) -> None:
        self.ended.set_result(None)

    @property
    def positions(self) -> list[QueuePosition]:
        return [event for event in self.events if isinstance(event, QueuePosition)]

    @property
    def outcome(self) -> str:
        """The finish reason ("stop", "cancelled", ...) or the code of the error."""
        last = self.events[-1]
        if isinstance(last, messages.Failed):
            return str(last.error["code"])
        assert isinstance(last, messages.Finished)
        return last.reason.value


class RunningPool:
    """A pool on a fake machine, with helpers that send requests to it."""

    def __init__(self, machine: FakeMachine, pool: ModelPool) -> None:
        self.machine = machine
        self.pool = pool
        self.manager = ModelManager(pool, max_queued=1000)

    def send(
        self, name: str, *, keep_alive: float | None = None
    ) -> tuple[ClientRequest, RecordingListener]:
        listener = RecordingListener()
        submit = messages.Submit(id=0, pieces=(), sampling=Sampling(), stopping=Stopping())
        request = ClientRequest(
            submit,
            listener,
            request_id=1,
            trace_id="",
            model_name=name,
            keep_alive_seconds=keep_alive,
            now=asyncio.get_running_loop().time(),
        )
        self.manager.submit(self.machine.models[name].manifest, request)
        return request, listener

    async def ask(self, name: str) -> str:
        """Send a request and wait for its outcome."""
        try:
            _, listener = self.send(name)
        except SpindllError as error:
            return error.code
        await asyncio.shield(listener.ended)
        return listener.outcome

    def ready_names(self) -> set[str]:
        ready = (model for model in self.pool.models if model.ready.done())
        return {model.name.split(":")[0] for model in ready}


@contextlib.asynccontextmanager
async def running_pool(
    machine: FakeMachine,
    *models: FakeModel,
    settings: dict[str, ModelSettings] | None = None,
    rules: ResidencyRules | None = None,
) -> AsyncIterator[RunningPool]:
    """A pool whose budget is the whole device.

    Asserts at its end that no memory is taken and that there were no violations.
    """
    machine.models = {model.name: model for model in models}

    async def resolve_path(manifest: Manifest) -> Path:
        return Path(manifest.name.split(":")[0])

    with tempfile.TemporaryDirectory() as folder:
        pool = ModelPool(
            machine,
            machine,
            Budget(fraction=1.0),
            EstimateCache(Path(folder) / "estimates.json"),
            make_load_defaults(),
            resolve_path=resolve_path,
            settings=ModelSettingsRegistry(
                ModelSettings(), {f"{k}:latest": v for k, v in (settings or {}).items()}
            ),
            rules=rules,
        )
        try:
            yield RunningPool(machine, pool)
        finally:
            await pool.close()
            await asyncio.sleep(machine.release_seconds + 1)
    assert machine.used_bytes == {}
    assert machine.violations == []
