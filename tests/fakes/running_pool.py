"""A real ModelPool on a fake machine, and listeners that record what requests get."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from services.engine.core import Sampling, Stopping
from services.engine.front.models.client_request import ClientRequest, QueuePosition
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.planning.model_settings import (
    ModelSettings,
    ModelSettingsRegistry,
)
from services.engine.front.models.pool import ModelPool
from services.engine.front.models.residency import ResidencyRules
from services.engine.memory.budget import Budget
from services.engine.memory.estimate_cache import EstimateCache
from services.engine.messages import commands, reports
from services.shared.errors import SpindllError
from services.shared.store.manifest import Manifest
from tests.engine.load_defaults import make_load_defaults
from tests.fakes.fake_machine import FakeMachine, FakeModel


class RecordingListener:
    """A RequestListener for one request that records its events."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.ended = asyncio.get_running_loop().create_future()

    def put_delta(self, request_id: int, delta: reports.Delta) -> None:
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
        if isinstance(last, reports.Failed):
            return str(last.error["code"])
        assert isinstance(last, reports.Finished)
        return last.reason.value


class RunningPool:
    """A pool on a fake machine, with helpers that send requests to it."""

    def __init__(self, machine: FakeMachine, pool: ModelPool, *, max_queued: int) -> None:
        self.machine = machine
        self.pool = pool
        self.manager = ModelManager(pool, max_queued=max_queued)

    def send(
        self, name: str, *, keep_alive: float | None = None
    ) -> tuple[ClientRequest, RecordingListener]:
        listener = RecordingListener()
        submit = commands.Submit(id=0, pieces=(), sampling=Sampling(), stopping=Stopping())
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

    async def embed(self, name: str) -> str:
        """Send a text, and wait for its vector, or for the code of the error."""
        command = commands.Embed(id=0, inputs=(commands.EmbedInput("a"),))
        try:
            await self.manager.embed(self.machine.models[name].manifest, command)
        except SpindllError as error:
            return error.code
        return "embedded"

    def ready_names(self) -> set[str]:
        ready = (model for model in self.pool.models if model.ready.done())
        return {model.name.split(":")[0] for model in ready}


@contextlib.asynccontextmanager
async def running_pool(
    machine: FakeMachine,
    *models: FakeModel,
    settings: dict[str, ModelSettings] | None = None,
    rules: ResidencyRules | None = None,
    max_queued: int = 1000,
    is_mlx_exclusive: bool = False,
) -> AsyncIterator[RunningPool]:
    """A pool whose budget is the whole machine.

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
            make_load_defaults(gpu_layers=10),  # not reduced: a model that does not fit is refused
            devices=machine.devices,
            resolve_path=resolve_path,
            settings=ModelSettingsRegistry(
                ModelSettings(),
                {f"{k}:latest": v for k, v in (settings or {}).items()},
                machine.devices,
            ),
            rules=rules,
            is_mlx_exclusive=is_mlx_exclusive,
        )
        try:
            yield RunningPool(machine, pool, max_queued=max_queued)
        finally:
            await pool.close()
            await asyncio.sleep(machine.release_seconds + 1)
    assert machine.used_bytes == {}
    assert machine.violations == []
