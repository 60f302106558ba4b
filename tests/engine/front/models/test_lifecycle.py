"""How a model of the pool is loaded, abandoned, unloaded and started again, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.front.models.model_state import ModelState
from services.engine.front.models.planning.model_settings import ModelSettings
from services.shared.errors import EngineUnavailable
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import running_pool
from tests.virtual_time import run_virtually

A = FakeModel("a", 6 * GIB)
B = FakeModel("b", 6 * GIB)


def test_a_queued_model_whose_only_request_is_cancelled_is_not_loaded() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with running_pool(machine, long, B) as running:
            busy = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(10)
            request, listener = running.send("b")
            await asyncio.sleep(1)
            running.manager.cancel(B.manifest, request)
            await busy
            await asyncio.sleep(60)
            assert listener.outcome == "cancelled"
            assert running.ready_names() == {"a"}
        assert machine.loads == ["a"]

    run_virtually(scenario())


def test_a_load_without_requests_ends_for_a_model_that_waits_for_its_memory() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        slow = FakeModel("a", 6 * GIB, load_seconds=600.0)
        async with running_pool(machine, slow, B) as running:
            request, listener = running.send("a")
            await asyncio.sleep(10)
            running.manager.cancel(slow.manifest, request)
            assert listener.outcome == "cancelled"
            began = asyncio.get_running_loop().time()
            assert await running.ask("b") == "stop"
            assert asyncio.get_running_loop().time() - began < 30

    run_virtually(scenario())


def test_a_load_call_during_the_end_of_an_abandoned_load_loads_the_model_again() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, release_seconds=3.0)
        slow = FakeModel("a", 6 * GIB, load_seconds=60.0)
        async with running_pool(machine, slow, B) as running:
            request, _ = running.send("a")
            await asyncio.sleep(5)
            _, listener = running.send("b")
            await asyncio.sleep(1)
            running.manager.cancel(slow.manifest, request)  # so a's load gives way to b's
            await asyncio.sleep(0.05)
            model = await asyncio.wait_for(running.manager.load_and_wait(slow.manifest), 1000)
            assert model.state is ModelState.READY
            assert listener.outcome == "stop"

    run_virtually(scenario())


def test_a_load_without_requests_goes_on_while_no_model_needs_its_memory() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            request, _ = running.send("a")
            await asyncio.sleep(1)
            running.manager.cancel(A.manifest, request)
            await asyncio.sleep(10)
            assert running.ready_names() == {"a"}

    run_virtually(scenario())


@pytest.mark.parametrize(
    ("keep_alive", "after", "is_loaded"),
    [(5.0, 4.0, True), (5.0, 6.0, False), (0.0, 1.0, False), (-1.0, 3600.0, True)],
)
def test_an_idle_model_is_unloaded_after_its_keep_alive(
    keep_alive: float, after: float, is_loaded: bool
) -> None:
    async def scenario() -> None:
        async with running_pool(FakeMachine(10 * GIB), A) as running:
            _, listener = running.send("a", keep_alive=keep_alive)
            await listener.ended
            await asyncio.sleep(after)
            assert (running.ready_names() == {"a"}) == is_loaded

    run_virtually(scenario())


def test_unload_lets_requests_finish_and_later_ones_load_the_model_again() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            await running.ask("a")
            answer = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(0)
            unloading = asyncio.create_task(running.manager.unload(A.manifest, force=False))
            await asyncio.sleep(0.5)
            later = asyncio.create_task(running.ask("a"))
            assert await unloading is True
            assert await answer == "stop"
            assert await later == "stop"
        assert machine.loads == ["a", "a"]

    run_virtually(scenario())


def test_a_forced_unload_ends_the_running_requests() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            await running.ask("a")
            answer = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(0.1)
            assert await running.manager.unload(A.manifest, force=True)
            assert await answer == "engine_unavailable"
            assert running.pool.models == []
            assert await running.manager.unload(A.manifest, force=True) is False

    run_virtually(scenario())


def test_unloading_a_loading_model_stops_the_load_and_fails_its_waiters() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            waiting = asyncio.create_task(running.ask("a"))
            loading = asyncio.create_task(running.manager.load(A.manifest, ModelSettings()))
            await asyncio.sleep(0.5)
            await running.manager.unload(A.manifest, force=False)
            assert await waiting == "engine_unavailable"
            with pytest.raises(EngineUnavailable):
                await loading

    run_virtually(scenario())


def test_load_with_other_settings_reloads_only_where_they_require_it() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            first, _ = await running.manager.load(A.manifest, ModelSettings(context_length=2048))
            smaller, _ = await running.manager.load(A.manifest, ModelSettings(context_length=1024))
            pinned, model = await running.manager.load(A.manifest, ModelSettings(pin=True))
            assert model.is_pinned
            larger, model = await running.manager.load(
                A.manifest, ModelSettings(context_length=4096)
            )
            assert (first, smaller, pinned, larger) == (False, True, True, False)
            assert model.is_pinned
            assert model.config is not None
            assert model.config.context_length == 4096
        assert machine.loads == ["a", "a"]

    run_virtually(scenario())


def test_a_load_call_is_a_use_of_a_loaded_model() -> None:
    async def scenario() -> None:
        async with running_pool(FakeMachine(10 * GIB), A) as running:
            await running.manager.load(A.manifest, ModelSettings(keep_alive_seconds=60))
            await asyncio.sleep(50)
            await running.manager.load(A.manifest, ModelSettings(keep_alive_seconds=30))
            await asyncio.sleep(20)
            assert running.ready_names() == {"a"}
            await asyncio.sleep(20)
            assert running.ready_names() == set()

    run_virtually(scenario())


def test_a_longer_context_than_the_model_was_trained_for_is_loaded_once() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        settings = ModelSettings(context_length=100_000)
        async with running_pool(machine, A) as running:
            first, model = await running.manager.load(A.manifest, settings)
            assert model.config is not None
            assert model.config.context_length == 4096
            again, _ = await running.manager.load(A.manifest, settings)
            assert (first, again) == (False, True)
        assert machine.loads == ["a"]

    run_virtually(scenario())


@pytest.mark.parametrize("after", [0.2, 1.0], ids=["while it is planned", "while it runs"])
def test_a_load_call_applies_its_settings_to_a_load_that_a_request_has_begun(after: float) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            waiting = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(after)
            is_loaded, model = await running.manager.load(A.manifest, ModelSettings(pin=True))
            assert (is_loaded, model.is_pinned, machine.loads) == (False, True, ["a"])
            assert await waiting == "stop"

    run_virtually(scenario())


@pytest.mark.parametrize("after", [0.2, 1.0], ids=["while it is planned", "while it runs"])
def test_a_load_that_the_settings_of_a_load_call_do_not_fit_begins_again(after: float) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            waiting = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(after)
            settings = ModelSettings(cache_type_k="q8_0")
            is_loaded, model = await running.manager.load(A.manifest, settings)
            assert not is_loaded
            assert model.config is not None
            assert model.config.cache_type_k == "q8_0"
            assert running.ready_names() == {"a"}
            assert await waiting == "stop"
            assert await running.manager.load(A.manifest, settings) == (True, model)

    run_virtually(scenario())


def test_a_request_that_waits_for_a_crashed_model_starts_the_next_runner() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            await running.ask("a")
            interrupted = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(0.1)
            machine.runners["a"].kill("was ended by SIGKILL")
            await asyncio.sleep(0.05)
            (model,) = running.pool.models
            assert model.state is ModelState.STOPPING
            waiting = asyncio.create_task(running.ask("a"))
            assert (await interrupted, await waiting) == ("runner_died", "stop")
        assert machine.loads == ["a", "a"]

    run_virtually(scenario())


def test_a_drain_that_times_out_does_not_end_an_unload_that_waits_for_the_same_request() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with running_pool(machine, long) as running:
            answer = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(10)
            unloading = asyncio.create_task(running.manager.unload(long.manifest, force=False))
            await asyncio.sleep(1)
            await running.pool.drain(5.0)
            assert await answer == "engine_unavailable"
            assert await asyncio.wait_for(unloading, 60) is True
            assert running.pool.models == []

    run_virtually(scenario())
