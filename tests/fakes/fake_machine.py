"""A machine with fake memory and fake runners, for a real fleet in virtual time.

Checks at every change that models never take more than the limit, and that no runner is stopped
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
from services.engine.front.models.manager import Models
from services.engine.front.models.model_settings import ModelSettings, SettingsBook
from services.engine.front.models.pool import Fleet
from services.engine.front.models.request import Request, Waiting
from services.engine.front.models.residency import TurnRules
from services.engine.memory.budget import Budget
from services.engine.memory.estimate import DEVICE_CONTEXT_BYTES, EstimateBook
from services.engine.memory.probe import Pool
from services.shared.errors import SpindllError
from services.shared.store.manifest import Description, FileRole, Manifest, StoredFile
from tests.engine.load_defaults import load_defaults

GIB = 1 << 30


@dataclass(frozen=True)
class FakeModel:
    """A model of this world; its bytes are all on the one device."""

    name: str
    size_bytes: int
    load_seconds: float = 2.0
    service_seconds: float = 1.0

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


class World:
    """The machine: one device. `used` is what runners and strangers really take of it."""

    def __init__(self, total_bytes: int, *, lag_seconds: float = 0.3) -> None:
        self.total = total_bytes
        self.lag_seconds = lag_seconds  # of the driver, to give a dead process's memory back
        self.models: dict[str, FakeModel] = {}
        self.held: dict[int, int] = {}
        self.strangers = 0
        self.most_used = 0
        self.loads: list[str] = []
        self.stops: list[str] = []
        self.wrongs: list[str] = []
        self.links: dict[str, FakeLink] = {}

    def pools(self) -> tuple[Pool, ...]:
        used = sum(self.held.values()) + self.strangers
        return (
            Pool("host", "host", 1 << 40, 1 << 40),
            Pool("cuda0", "cuda", self.total, max(self.total - used, 0)),
        )

    def take(self, pid: int, size: int) -> None:
        self.held[pid] = size
        used = sum(self.held.values())
        self.most_used = max(self.most_used, used)
        if used + self.strangers > self.total:
            self.wrongs.append(f"{used} of {self.total} bytes used")

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> FakeLink:
        model = self.models[config.model_path]
        self.loads.append(model.name)
        link = FakeLink(self, model, len(self.loads) + (1 << 23), config, on_report, on_gone)
        self.links[model.name] = link
        return link

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        return info_of(self.models[config.model_path], config)


def info_of(model: FakeModel, config: LoadConfig) -> ModelInfo:
    # What the plan promises is the size and the device's reserve; real use is all of that.
    return ModelInfo(
        architecture="llama",
        vocab_size=10,
        context_length=config.context_length,
        trained_context_length=4096,
        max_sequences=4,
        memory_policy=MemoryPolicy.DENSE,
        gpu_layers=10,
        backend="fake",
        weights_bytes=model.size_bytes - DEVICE_CONTEXT_BYTES,
        kv_bytes=0,
        compute_bytes=0,
        pool_bytes={"cuda0": model.size_bytes - DEVICE_CONTEXT_BYTES},
    )


class FakeLink:
    """A runner that takes its memory while it loads and answers each request after a time."""

    def __init__(
        self,
        world: World,
        model: FakeModel,
        pid: int,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self.pid = pid
        self._world = world
        self._model = model
        self._report = on_report
        self._on_gone = on_gone
        self._running: dict[int, asyncio.TimerHandle] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._load(config))

    async def _load(self, config: LoadConfig) -> None:
        for part in (0.3, 0.7, 1.0):
            self._world.take(self.pid, int(self._model.size_bytes * part))
            await asyncio.sleep(self._model.load_seconds / 3)
        self._report(messages.Ready(info_of(self._model, config)))

    def send(self, command: messages.Command) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(command, messages.Submit):
            later = loop.call_later(self._model.service_seconds, self._finish, command.id)
            self._running[command.id] = later
        elif isinstance(command, messages.Cancel):
            for id_ in command.ids:
                if (timer := self._running.pop(id_, None)) is not None:
                    timer.cancel()
                    loop.call_soon(self._say_finished, id_, FinishReason.CANCELLED)

    def _finish(self, id_: int) -> None:
        self._running.pop(id_, None)
        self._say_finished(id_, FinishReason.STOP)

    def _say_finished(self, id_: int, reason: FinishReason) -> None:
        if not self._ended.done():
            self._report(
                messages.StepReport([messages.Finished(id_, 0, reason, 1, 0, 1, 0.0, 0.0, 0.0)])
            )

    def kill(self, why: str) -> None:
        if self._ended.done():
            return
        self._task.cancel()
        for timer in self._running.values():
            timer.cancel()
        self._ended.set_result(None)
        loop = asyncio.get_running_loop()
        loop.call_later(self._world.lag_seconds, self._world.held.pop, self.pid, 0)
        loop.call_soon(self._on_gone, why)

    async def stop(self, *, grace_seconds: float) -> None:
        if self._running:
            self._world.wrongs.append(f"{self._model.name} was stopped while busy")
        self._world.stops.append(self._model.name)
        try:
            await asyncio.sleep(0.1)
        finally:
            self.kill("exited")


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.ended = asyncio.get_running_loop().create_future()

    def put_delta(self, request_id: int, delta: messages.Delta) -> None:
        self.said.append(delta)

    def put(self, request_id: int, item: object) -> None:
        self.said.append(item)

    def end(self, request_id: int) -> None:
        self.ended.set_result(None)

    @property
    def places(self) -> list[Waiting]:
        return [item for item in self.said if isinstance(item, Waiting)]

    @property
    def end_word(self) -> str:
        """ "stop", "cancelled", ... or an error's code."""
        last = self.said[-1]
        if isinstance(last, messages.Failed):
            return str(last.error["code"])
        assert isinstance(last, messages.Finished)
        return last.reason.value


class Bench:
    """A fleet in a world, and hands to use it with."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        self.world = world
        self.fleet = fleet
        self.models = Models(fleet, max_queued=1000)

    def send(self, name: str, *, keep_alive: float | None = None) -> tuple[Request, Ear]:
        ear = Ear()
        submit = messages.Submit(id=0, pieces=(), sampling=Sampling(), stopping=Stopping())
        request = Request(
            submit,
            ear,
            request_id=1,
            trace_id="",
            model=name,
            keep_alive_seconds=keep_alive,
            now=asyncio.get_running_loop().time(),
        )
        self.models.place(self.world.models[name].manifest, request)
        return request, ear

    async def ask(self, name: str) -> str:
        try:
            _, ear = self.send(name)
        except SpindllError as error:
            return error.code
        await asyncio.shield(ear.ended)
        return ear.end_word

    def ready_names(self) -> set[str]:
        ready = (m for m in self.fleet.models if m.ready.done())
        return {m.name.split(":")[0] for m in ready}


@contextlib.asynccontextmanager
async def bench(
    world: World,
    *models: FakeModel,
    settings: dict[str, ModelSettings] | None = None,
    rules: TurnRules | None = None,
) -> AsyncIterator[Bench]:
    """A fleet with a budget of all the device; its end must leave no memory taken."""
    world.models = {model.name: model for model in models}

    async def path_of(manifest: Manifest) -> Path:
        return Path(manifest.name.split(":")[0])

    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(
            world,
            world,
            Budget(fraction=1.0),
            EstimateBook(Path(folder) / "estimates.json"),
            load_defaults(),
            path_of=path_of,
            settings=SettingsBook(
                ModelSettings(), {f"{k}:latest": v for k, v in (settings or {}).items()}
            ),
            rules=rules,
        )
        try:
            yield Bench(world, fleet)
        finally:
            await fleet.close()
            await asyncio.sleep(world.lag_seconds + 1)
    assert world.held == {}
    assert world.wrongs == []
