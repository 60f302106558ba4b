"""Who is loaded, who waits, who leaves: a real fleet on a fake machine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.front.models.loaded_model import State
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.models.request import Waiting, WaitReason
from services.engine.front.models.residency import TurnRules
from services.shared.errors import EngineUnavailable
from tests.fakes.fake_machine import GIB, Bench, FakeModel, World, bench
from tests.virtual_time import run_virtually

A = FakeModel("a", 6 * GIB)
B = FakeModel("b", 6 * GIB)
SMALL = FakeModel("small", 2 * GIB)
BIG = FakeModel("big", 20 * GIB)


def test_requests_of_one_model_share_one_load() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A) as b:
            answers = await asyncio.gather(*(b.ask("a") for _ in range(5)))
        assert answers == ["stop"] * 5
        assert world.loads == ["a"]

    run_virtually(story())


def test_an_idle_model_leaves_for_another_and_a_busy_one_is_waited_for() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with bench(world, long, B) as b:
            first = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(10)
            _, ear = b.send("b")
            await asyncio.sleep(10)
            assert ear.places == [
                Waiting(1, WaitReason.LOADING),
                Waiting(1, WaitReason.MEMORY),
            ]
            assert not first.done()
            await ear.ended
            assert first.done()
            assert (await first, ear.end_word) == ("stop", "stop")
        assert world.loads == ["a", "b"]

    run_virtually(story())


def test_what_cannot_fit_is_refused_and_evicts_nothing() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A, BIG) as b:
            await b.ask("a")
            _, ear = b.send("big")
            await ear.ended
            assert ear.end_word == "insufficient_memory"
            assert b.ready_names() == {"a"}
        assert world.loads == ["a"]

    run_virtually(story())


def test_a_pinned_model_stays_and_what_would_need_its_room_is_refused() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        pinned = {"a": ModelSettings(pin=True)}
        async with bench(world, A, B, settings=pinned) as b:
            assert await b.ask("a") == "stop"
            assert await b.ask("b") == "insufficient_memory"
            assert b.ready_names() == {"a"}

    run_virtually(story())


def test_the_cheapest_loss_leaves_first() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        dear = FakeModel("dear", 3 * GIB, load_seconds=20.0)
        cheap = FakeModel("cheap", 3 * GIB, load_seconds=1.0)
        new = FakeModel("new", 5 * GIB)
        async with bench(world, dear, cheap, new) as b:
            await b.ask("cheap")
            await b.ask("dear")
            await asyncio.sleep(30)
            await b.ask("new")
            assert b.ready_names() == {"dear", "new"}

    run_virtually(story())


def test_a_small_model_goes_ahead_of_one_that_must_wait_where_both_will_fit() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with bench(world, long, B, SMALL) as b:
            busy = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(10)
            waiting = asyncio.create_task(b.ask("b"))
            await asyncio.sleep(1)
            assert await b.ask("small") == "stop"
            assert not busy.done()
            assert await waiting == "stop"

    run_virtually(story())


def test_nobody_goes_ahead_into_room_that_the_first_in_line_will_need() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        first = FakeModel("first", 9 * GIB)
        async with bench(world, long, first, SMALL) as b:
            busy = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(10)
            waiting = asyncio.create_task(b.ask("first"))
            await asyncio.sleep(1)
            assert await b.ask("small") == "stop"
            assert waiting.done()
            assert await busy == "stop"
        assert world.loads == ["a", "first", "small"]

    run_virtually(story())


def test_a_model_that_is_never_idle_does_not_starve_another() -> None:
    async def crowd(b: Bench, delay: float) -> None:
        await b.ask("a")
        await asyncio.sleep(delay)  # so that never all of them end at the same moment
        while await b.ask("a") == "stop":
            pass

    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A, B) as b:
            clients = [asyncio.create_task(crowd(b, n * 0.2)) for n in range(5)]
            await asyncio.sleep(100)
            answers = [await asyncio.wait_for(b.ask("b"), 60) for _ in range(3)]
            for client in clients:
                client.cancel()
        assert answers == ["stop"] * 3

    run_virtually(story())


def test_two_models_asked_for_at_the_same_time_take_turns_and_do_not_thrash() -> None:
    """16 clients, 8 for each of two models that cannot both be loaded: 400 requests."""

    async def client(b: Bench, name: str) -> list[str]:
        return [await b.ask(name) for _ in range(25)]

    async def story() -> None:
        world = World(10 * GIB)
        rules = TurnRules()
        loop = asyncio.get_running_loop()
        async with bench(world, A, B, rules=rules) as b:
            began = loop.time()
            answers = await asyncio.gather(*(client(b, name) for name in "ab" * 8))
            seconds = loop.time() - began
        assert [word for answer in answers for word in answer] == ["stop"] * 400
        # A load takes 2 s, so a turn takes at least 8.
        assert len(world.loads) <= 2 + seconds / 8
        assert len(world.loads) < 12

    run_virtually(story())


def test_a_client_that_alternates_alone_gets_every_answer() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A, B) as b:
            answers = [await b.ask(name) for name in "ab" * 6]
        assert answers == ["stop"] * 12
        assert len(world.loads) == 12

    run_virtually(story())


def test_a_model_nobody_waits_for_any_more_is_not_loaded() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=100.0)
        async with bench(world, long, B) as b:
            busy = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(10)
            request, ear = b.send("b")
            await asyncio.sleep(1)
            b.models.cancel(B.manifest, request)
            await busy
            await asyncio.sleep(60)
            assert ear.end_word == "cancelled"
            assert b.ready_names() == {"a"}
        assert world.loads == ["a"]

    run_virtually(story())


@pytest.mark.parametrize(
    ("keep_alive", "after", "is_there"),
    [(5.0, 4.0, True), (5.0, 6.0, False), (0.0, 1.0, False), (-1.0, 3600.0, True)],
)
def test_an_idle_model_is_unloaded_after_its_keep_alive(
    keep_alive: float, after: float, is_there: bool
) -> None:
    async def story() -> None:
        async with bench(World(10 * GIB), A) as b:
            _, ear = b.send("a", keep_alive=keep_alive)
            await ear.ended
            await asyncio.sleep(after)
            assert (b.ready_names() == {"a"}) == is_there

    run_virtually(story())


def test_unload_lets_requests_finish_and_those_that_come_later_load_it_again() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A) as b:
            await b.ask("a")
            running = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(0)
            unloading = asyncio.create_task(b.models.unload(A.manifest, force=False))
            await asyncio.sleep(0.5)
            later = asyncio.create_task(b.ask("a"))
            assert await unloading is True
            assert await running == "stop"
            assert await later == "stop"
        assert world.loads == ["a", "a"]

    run_virtually(story())


def test_a_forced_unload_ends_what_runs() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A) as b:
            await b.ask("a")
            running = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(0.1)
            assert await b.models.unload(A.manifest, force=True)
            assert await running == "engine_unavailable"
            assert b.fleet.models == []
            assert await b.models.unload(A.manifest, force=True) is False

    run_virtually(story())


def test_unloading_a_model_on_its_way_stops_the_load_and_tells_its_waiters() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A) as b:
            waiting = asyncio.create_task(b.ask("a"))
            loading = asyncio.create_task(b.models.load(A.manifest, ModelSettings()))
            await asyncio.sleep(0.5)
            await b.models.unload(A.manifest, force=False)
            assert await waiting == "engine_unavailable"
            with pytest.raises(EngineUnavailable):
                await loading

    run_virtually(story())


def test_load_with_other_settings_loads_again_only_where_it_must() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A) as b:
            first, _ = await b.models.load(A.manifest, ModelSettings(context_length=2048))
            smaller, _ = await b.models.load(A.manifest, ModelSettings(context_length=1024))
            pinned, model = await b.models.load(A.manifest, ModelSettings(pin=True))
            assert model.is_pinned
            larger, model = await b.models.load(A.manifest, ModelSettings(context_length=4096))
            assert (first, smaller, pinned, larger) == (False, True, True, False)
            assert model.is_pinned
            assert model.config is not None
            assert model.config.context_length == 4096
        assert world.loads == ["a", "a"]

    run_virtually(story())


def test_a_request_that_waits_for_a_dead_model_starts_the_next_runner() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A) as b:
            await b.ask("a")
            hit = asyncio.create_task(b.ask("a"))
            await asyncio.sleep(0.1)
            world.links["a"].kill("was ended by SIGKILL")
            await asyncio.sleep(0.05)
            (model,) = b.fleet.models
            assert model.state is State.STOPPING
            after = asyncio.create_task(b.ask("a"))
            assert (await hit, await after) == ("runner_died", "stop")
        assert world.loads == ["a", "a"]

    run_virtually(story())
