"""Any order of requests, cancellations, calls and crashes: all of them end, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from services.engine.front.models.client_request import ClientRequest
from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.messages import commands
from services.shared.errors import SpindllError
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import RecordingListener, RunningPool, running_pool
from tests.virtual_time import run_virtually

PAUSES = (0.0, 0.0, 0.0, 0.01, 0.1, 0.5, 1.0, 3.0, 40.0)
END_SECONDS = 1000.0  # virtual: until everything has ended


class Callers:
    """Draws what clients and operators do to a pool, and keeps what must end."""

    def __init__(self, running: RunningPool, models: list[FakeModel], draw: random.Random) -> None:
        self.running = running
        self.models = models
        self.draw = draw
        self.requests: list[tuple[FakeModel, ClientRequest, RecordingListener]] = []
        self.calls: list[asyncio.Task[object]] = []

    def act(self) -> None:
        """Do one thing; what the pool refuses at once needs no end."""
        actions = (self.send, self.cancel, self.load, self.unload, self.ask, self.crash)
        (action,) = self.draw.choices(actions, weights=(9, 3, 2, 2, 2, 1))
        with contextlib.suppress(SpindllError):
            action(self.draw.choice(self.models))

    def send(self, model: FakeModel) -> None:
        keep_alive = self.draw.choice((None, None, 0.0, 5.0, -1.0))
        self.requests.append((model, *self.running.send(model.name, keep_alive=keep_alive)))

    def cancel(self, _: FakeModel) -> None:
        if self.requests:
            model, request, _listener = self.draw.choice(self.requests)
            self.running.manager.cancel(model.manifest, request)

    def load(self, model: FakeModel) -> None:
        settings = ModelSettings(
            context_length=self.draw.choice((None, 2048, 100_000)),
            cache_type_k=self.draw.choice((None, "f16", "q8_0")),
            keep_alive_seconds=self.draw.choice((None, 0.0, 3.0)),
        )
        self.call(self.running.manager.load(model.manifest, settings))

    def unload(self, model: FakeModel) -> None:
        force = self.draw.random() < 0.5
        self.call(self.running.manager.unload(model.manifest, force=force))

    def ask(self, model: FakeModel) -> None:
        """A text to tokenize, or one to embed."""
        manager, manifest = self.running.manager, model.manifest
        if self.draw.random() < 0.5:
            self.call(manager.tokenize(manifest, (), add_special=False, principal=""))
        else:
            self.call(manager.embed(manifest, commands.Embed(id=0, inputs=())))

    def crash(self, model: FakeModel) -> None:
        if (runner := self.running.machine.runners.get(model.name)) is not None:
            runner.kill("was ended by SIGKILL")

    def call(self, work: Coroutine[Any, Any, object]) -> None:
        """Start a call; some of the callers leave before it ends."""
        task = asyncio.create_task(work)
        self.calls.append(task)
        if self.draw.random() < 0.3:
            asyncio.get_running_loop().call_later(self.draw.uniform(0.0, 5.0), task.cancel)

    def check(self) -> None:
        """All has ended, each request once (its listener would raise), and by no bug of ours."""
        assert all(listener.ended.done() for _, _, listener in self.requests)
        assert all(call.done() for call in self.calls)
        errors = [call.exception() for call in self.calls if not call.cancelled()]
        assert [e for e in errors if e is not None and not isinstance(e, SpindllError)] == []
        assert {model.state for model in self.running.pool.models} <= {ModelState.READY}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_called_in_any_order_ends(seed: int) -> None:
    draw = random.Random(seed)
    models = [
        FakeModel(
            name,
            draw.randrange(2, 8) * GIB,
            load_seconds=draw.choice((0.3, 2.0, 30.0)),
            service_seconds=draw.choice((0.2, 1.0, 20.0)),
            out_of_memory_loads=draw.choice((0, 0, 0, 1, 2)),
        )
        for name in "abcd"
    ]
    machine = FakeMachine(
        10 * GIB,
        release_seconds=draw.choice((0.3, 3.0)),
        device_count=draw.choice((0, 1, 2)),
    )
    unhandled: list[dict[str, Any]] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what))
        async with running_pool(machine, *models, max_queued=20) as running:
            callers = Callers(running, models, draw)
            for _ in range(100):
                await asyncio.sleep(draw.choice(PAUSES))
                callers.act()
            await asyncio.sleep(END_SECONDS)
            callers.check()

    run_virtually(scenario())
    assert unhandled == []
