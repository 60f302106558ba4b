"""A machine with fake memory and fake runners, for the pool of running_pool.py in virtual time.

It records a violation when the runners take more memory than there is, and when a runner is stopped
while it has requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.engine.core import (
    HOST,
    Counters,
    Device,
    FinishReason,
    LoadConfig,
    MemoryPolicy,
    ModelInfo,
)
from services.engine.front.models.runner_requests import Reply
from services.engine.memory.probe import MemoryPool
from services.engine.messages import commands, reports
from services.shared.memory_assumptions import DEVICE_CONTEXT_BYTES, PROCESS_BYTES
from services.shared.store.manifest import Description, FileRole, Manifest, StoredFile

GIB = 1 << 30


@dataclass(frozen=True)
class FakeModel:
    """A model of the fake machine. Its bytes are on the devices of its load, else in main memory.

    A runner takes `size_bytes`, which is what a dry run says with the pool's reserve, and the
    bytes that no dry run knows.
    """

    name: str
    size_bytes: int
    load_seconds: float = 2.0
    service_seconds: float = 1.0  # for each request
    out_of_memory_loads: int = 0  # its first loads fail like this
    unknown_bytes: int = 0  # taken at the load
    growth_bytes: int = 0  # of main memory, taken by the first request
    format: Literal["gguf", "mlx"] = "gguf"
    embedding_bytes: int = 0  # of its context for embeddings

    @property
    def manifest(self) -> Manifest:
        digest = "sha256:" + self.name.encode().hex().rjust(64, "0")
        file = StoredFile(role=FileRole.MODEL, path="m.gguf", digest=digest, size_bytes=1)
        return Manifest(
            name=f"{self.name}:latest",
            source="a test",
            created_at=0.0,
            files=(file,),
            description=Description(format=self.format, architecture="llama", context_length=4096),
        )


class FakeMachine:
    """A machine with GPUs of one size. It is both the RunnerLauncher and the MemoryProbe of a pool.

    Without a GPU, models are in its main memory, which has that size then.
    """

    def __init__(
        self, total_bytes: int, *, release_seconds: float = 0.3, device_count: int = 1
    ) -> None:
        self.total_bytes = total_bytes
        self.pools = [f"cuda{number}" for number in range(device_count)] or [HOST]
        # For the driver to free the memory of a process that ended.
        self.release_seconds = release_seconds
        self.models: dict[str, FakeModel] = {}
        self.used_bytes: dict[int, dict[str, int]] = {}  # by the pid of a runner, by pool
        self.other_processes_bytes = 0  # in the first pool
        self.max_used_bytes = 0  # of one pool, by all runners together
        self.loads: list[str] = []
        self.stops: list[str] = []
        self.violations: list[str] = []
        self.runners: dict[str, FakeRunner] = {}
        self.dry_runs = 0

    @property
    def has_device(self) -> bool:
        return self.pools != [HOST]

    @property
    def devices(self) -> list[Device]:
        return [
            Device(name=name, label="fake", total_bytes=self.total_bytes)
            for name in self.pools
            if name != HOST
        ]

    def measure_pools(self) -> tuple[MemoryPool, ...]:
        pools = [self._measure_pool(name) for name in self.pools]
        return (*([MemoryPool(HOST, "host", 1 << 40, 1 << 40)] if self.has_device else []), *pools)

    def _measure_pool(self, name: str) -> MemoryPool:
        free = max(self.total_bytes - self._count_used(name), 0)
        return MemoryPool(name, name.rstrip("0123456789"), self.total_bytes, free)

    def _count_used(self, pool: str) -> int:
        others = self.other_processes_bytes if pool == self.pools[0] else 0
        return sum(used.get(pool, 0) for used in self.used_bytes.values()) + others

    def measure_process(self, pid: int) -> int | None:
        return self.used_bytes.get(pid, {}).get(HOST)

    def allocate(self, pid: int, sizes: Mapping[str, int]) -> None:
        """From now on the process takes these bytes by pool."""
        self.used_bytes[pid] = dict(sizes)
        for pool in sizes:
            used = self._count_used(pool)
            self.max_used_bytes = max(self.max_used_bytes, used)
            if pool in self.pools and used > self.total_bytes:
                self.violations.append(f"{pool}: {used} of {self.total_bytes} bytes used")

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> FakeRunner:
        model = self.models[config.model_path]
        self.loads.append(model.name)
        runner = FakeRunner(self, model, len(self.loads) + (1 << 23), config, on_report, on_exit)
        self.runners[model.name] = runner
        return runner

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        """Dry run, which takes a driver's context on each device itself."""
        self.dry_runs += 1
        pid = -self.dry_runs
        self.allocate(pid, dict.fromkeys(config.devices, DEVICE_CONTEXT_BYTES))
        try:
            await asyncio.sleep(0.5)
        finally:
            del self.used_bytes[pid]
        return self.build_info(self.models[config.model_path], config)

    def build_info(self, model: FakeModel, config: LoadConfig) -> ModelInfo:
        places = config.devices or (HOST,)
        # The plan commits these sizes and the pools' reserves: all that a runner takes.
        sizes = split_evenly(model.size_bytes, config)
        reserve = DEVICE_CONTEXT_BYTES if config.devices else PROCESS_BYTES
        embedding = split_evenly(model.embedding_bytes if config.embeds else 0, config)
        pools = {name: sizes[name] - reserve + embedding[name] for name in places}
        return ModelInfo(
            architecture="llama",
            vocab_size=10,
            context_length=config.context_length,
            trained_context_length=4096,
            max_sequences=4,
            memory_policy=MemoryPolicy.DENSE,
            gpu_layers=10 if config.devices else 0,
            backend="fake",
            weights_bytes=sum(pools.values()),
            kv_bytes=0,
            compute_bytes=0,
            pool_bytes=pools,
            embedding_bytes={name: size for name, size in embedding.items() if size},
        )


def split_evenly(size_bytes: int, config: LoadConfig) -> dict[str, int]:
    """The bytes by the pools of a load, by its shares."""
    places = config.devices or (HOST,)
    shares = config.tensor_split or (1.0,)
    return {
        name: int(size_bytes * share / sum(shares))
        for name, share in zip(places, shares, strict=True)
    }


class FakeRunner:
    """A runner that takes its memory while it loads and answers each request after a time."""

    def __init__(
        self,
        machine: FakeMachine,
        model: FakeModel,
        pid: int,
        config: LoadConfig,
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> None:
        self.pid = pid
        self._machine = machine
        self._model = model
        self._on_report = on_report
        self._on_exit = on_exit
        self._running: dict[int, asyncio.TimerHandle] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sizes = split_evenly(model.size_bytes + model.unknown_bytes, config)
        self._embedding_sizes = split_evenly(model.embedding_bytes, config)
        self._load_task = asyncio.create_task(self._load(config))

    async def _load(self, config: LoadConfig) -> None:
        for part in (0.3, 0.7, 1.0):
            taken = {name: int(size * part) for name, size in self._sizes.items()}
            self._machine.allocate(self.pid, taken)
            await asyncio.sleep(self._model.load_seconds / 3)
        if self._machine.loads.count(self._model.name) <= self._model.out_of_memory_loads:
            self._on_report(reports.LoadFailed("insufficient_memory", "out of memory"))
            return
        self._on_report(reports.Ready(self._machine.build_info(self._model, config)))
        while self._model.growth_bytes:  # in virtual time, needless reports cost the most
            running = len(self._running)
            self._on_report(reports.Heartbeat(0.0, running, 0, running, Counters()))
            await asyncio.sleep(reports.HEARTBEAT_SECONDS)

    def send(self, command: commands.Command) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(command, commands.Submit):
            if self._model.growth_bytes:
                grown = self._sizes.get(HOST, 0) + self._model.growth_bytes
                self._machine.allocate(self.pid, {**self._sizes, HOST: grown})
            timer = loop.call_later(self._model.service_seconds, self._finish, command.id)
            self._running[command.id] = timer
        elif isinstance(command, commands.Embed | commands.Tokenize | commands.Detokenize):
            timer = loop.call_later(self._model.service_seconds, self._reply, command)
            if isinstance(command, commands.Embed):  # a text to tokenize cannot be cancelled
                self._running[command.id] = timer
        elif isinstance(command, commands.Cancel):
            for id_ in command.ids:
                if (running := self._running.pop(id_, None)) is not None:
                    running.cancel()
                    loop.call_soon(self._report_finished, id_, FinishReason.CANCELLED)

    def _finish(self, id_: int) -> None:
        self._running.pop(id_, None)
        self._report_finished(id_, FinishReason.STOP)

    def _reply(self, command: commands.Embed | commands.Tokenize | commands.Detokenize) -> None:
        self._running.pop(command.id, None)
        if isinstance(command, commands.Embed):
            self._open_embeddings()
        replies: dict[type, type[Reply]] = {
            commands.Embed: reports.Embedded,
            commands.Tokenize: reports.Tokenized,
            commands.Detokenize: reports.Detokenized,
        }
        if not self._ended.done():
            self._on_report(replies[type(command)](command.id))

    def _open_embeddings(self) -> None:
        """Take the memory of the context for embeddings, for the first texts."""
        more, self._embedding_sizes = self._embedding_sizes, {}
        if more and not self._ended.done():
            self._sizes = {name: size + more[name] for name, size in self._sizes.items()}
            self._machine.allocate(self.pid, self._sizes)
            self._on_report(reports.MemoryAdded(more))

    def _report_finished(self, id_: int, reason: FinishReason) -> None:
        if not self._ended.done():
            self._on_report(
                reports.StepReport([reports.Finished(id_, 0, reason, 1, 0, 1, 0.0, 0.0, 0.0)])
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
            loop.call_later(self._machine.release_seconds, release, self.pid, None)
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
