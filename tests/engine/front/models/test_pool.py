"""Which model is loaded, waits or leaves: a real pool on a fake machine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.front.models.client_request import QueuePosition, QueueReason
from services.engine.front.models.loaded_model import ModelState
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.models.residency import ResidencyRules
from services.shared.errors import EngineUnavailable
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel, RunningPool, running_pool
from tests.virtual_time import run_virtually

A = FakeModel("a", 6 * GIB)
B = FakeModel("b", 6 * GIB)
SMALL = FakeModel("small", 2 * GIB)
BIG = FakeModel("big", 20 * GIB)


def test_requests_of_one_model_share_one_load() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A) as running:
            answers = await asyncio.gather(*(running.ask("a") for _ in range(5)))
        assert answers == ["stop"] * 5
        assert machine.loads == ["a"]

    run_virtually(scenario())


def test_a_busy_model_is_evicted_only_after_its_request() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with running_pool(machine, long, B) as running:
            first = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(10)
            _, listener = running.send("b")
            await asyncio.sleep(10)
            assert listener.positions == [
                QueuePosition(1, QueueReason.LOADING),
                QueuePosition(1, QueueReason.MEMORY),
            ]
            assert not first.done()
            await listener.ended
            assert first.done()
            assert (await first, listener.outcome) == ("stop", "stop")
        assert machine.loads == ["a", "b"]

    run_virtually(scenario())


def test_a_model_that_cannot_fit_is_refused_and_evicts_no_other() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, BIG) as running:
            await running.ask("a")
            _, listener = running.send("big")
            await listener.ended
            assert listener.outcome == "insufficient_memory"
            assert running.ready_names() == {"a"}
        assert machine.loads == ["a"]

    run_virtually(scenario())


def test_a_pinned_model_stays_and_a_model_that_needs_its_memory_is_refused() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        pinned = {"a": ModelSettings(pin=True)}
        async with running_pool(machine, A, B, settings=pinned) as running:
            assert await running.ask("a") == "stop"
            assert await running.ask("b") == "insufficient_memory"
            assert running.ready_names() == {"a"}

    run_virtually(scenario())


def test_the_model_that_is_cheapest_to_reload_is_evicted_first() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        expensive = FakeModel("expensive", 3 * GIB, load_seconds=20.0)
        cheap = FakeModel("cheap", 3 * GIB, load_seconds=1.0)
        new = FakeModel("new", 5 * GIB)
        async with running_pool(machine, expensive, cheap, new) as running:
            await running.ask("cheap")
            await running.ask("expensive")
            await asyncio.sleep(30)
            await running.ask("new")
            assert running.ready_names() == {"expensive", "new"}

    run_virtually(scenario())


def test_a_small_model_overtakes_a_waiting_one_if_both_will_fit() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with running_pool(machine, long, B, SMALL) as running:
            busy = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(10)
            waiting = asyncio.create_task(running.ask("b"))
            await asyncio.sleep(1)
            assert await running.ask("small") == "stop"
            assert not busy.done()
            assert await waiting == "stop"

    run_virtually(scenario())


def test_no_model_overtakes_into_memory_that_the_first_in_the_queue_needs() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        first = FakeModel("first", 9 * GIB)
        async with running_pool(machine, long, first, SMALL) as running:
            busy = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(10)
            waiting = asyncio.create_task(running.ask("first"))
            await asyncio.sleep(1)
            assert await running.ask("small") == "stop"
            assert waiting.done()
            assert await busy == "stop"
        assert machine.loads == ["a", "first", "small"]

    run_virtually(scenario())


def test_a_model_that_is_never_idle_does_not_starve_another() -> None:
    async def ask_repeatedly(running: RunningPool, delay: float) -> None:
        await running.ask("a")
        await asyncio.sleep(delay)  # so that their requests do not all end at the same time
        while await running.ask("a") == "stop":
            pass

    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, B) as running:
            clients = [asyncio.create_task(ask_repeatedly(running, n * 0.2)) for n in range(5)]
            await asyncio.sleep(100)
            answers = [await asyncio.wait_for(running.ask("b"), 60) for _ in range(3)]
            for client in clients:
                client.cancel()
        assert answers == ["stop"] * 3

    run_virtually(scenario())


def test_two_models_requested_at_the_same_time_alternate_without_thrashing() -> None:
    """16 clients, 8 for each of two models that cannot both be loaded: 400 requests."""

    async def client(running: RunningPool, name: str) -> list[str]:
        return [await running.ask(name) for _ in range(25)]

    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        rules = ResidencyRules()
        loop = asyncio.get_running_loop()
        async with running_pool(machine, A, B, rules=rules) as running:
            began = loop.time()
            answers = await asyncio.gather(*(client(running, name) for name in "ab" * 8))
            seconds = loop.time() - began
        assert [outcome for answer in answers for outcome in answer] == ["stop"] * 400
        # A load takes 2 s, so the minimum residency is 8 s.
        assert len(machine.loads) <= 2 + seconds / 8
        assert len(machine.loads) < 12

    run_virtually(scenario())


def test_a_single_client_that_alternates_models_gets_every_answer() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, B) as running:
            answers = [await running.ask(name) for name in "ab" * 6]
        assert answers == ["stop"] * 12
        assert len(machine.loads) == 12

    run_virtually(scenario())


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
