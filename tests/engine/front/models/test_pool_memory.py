"""The fleet's books of memory: a real fleet on a fake machine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.front.models.model_settings import ModelSettings
from services.shared.errors import InsufficientMemory
from tests.fakes.fake_machine import GIB, FakeModel, World, bench
from tests.virtual_time import run_virtually

A = FakeModel("a", 6 * GIB)
B = FakeModel("b", 6 * GIB)
BIG = FakeModel("big", 20 * GIB)


def test_the_memory_of_a_dead_runner_counts_as_taken_until_the_driver_gave_it_back() -> None:
    async def story() -> None:
        world = World(10 * GIB, lag_seconds=3.0)
        async with bench(world, A, B) as b:
            await b.ask("a")
            world.links["a"].kill("was ended by SIGKILL")
            assert await b.ask("b") == "stop"
        assert world.most_used <= 10 * GIB

    run_virtually(story())


def test_a_plan_tells_what_would_leave_and_does_nothing() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        async with bench(world, A, B, BIG) as b:
            await b.ask("a")
            await asyncio.sleep(60)
            evict = await b.models.preview_load(B.manifest, ModelSettings())
            impossible = await b.models.preview_load(BIG.manifest, ModelSettings())
            loaded = await b.models.preview_load(A.manifest, ModelSettings())
            assert b.ready_names() == {"a"}
        assert evict.decision is not None
        assert evict.evict == ("a:latest",)
        assert evict.decision.why == (
            "fits once a:latest left; cuda0: needs 6.0 GiB, room 4.0 GiB (limit 10.0 GiB, "
            "models hold 6.0 GiB, free on the machine 4.0 GiB)"
        )
        assert impossible.decision is not None
        assert impossible.decision.why == (
            "does not fit; cuda0: needs 20.0 GiB, but at most 10.0 GiB can be made free (limit "
            "10.0 GiB, pinned models hold 0 MiB, free on the machine 4.0 GiB)"
        )
        assert loaded.decision is None

    run_virtually(story())


def test_what_strangers_take_is_not_given_to_models() -> None:
    async def story() -> None:
        world = World(10 * GIB)
        world.strangers = 5 * GIB
        async with bench(world, A) as b:
            with pytest.raises(InsufficientMemory, match=r"free on the machine 5\.0 GiB"):
                await b.models.ready(A.manifest)

    run_virtually(story())


sizes = st.integers(1, 12)
fake_models = st.lists(
    st.tuples(sizes, st.sampled_from([0.5, 3.0, 20.0]), st.sampled_from([0.1, 2.0, 30.0])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    shapes=fake_models,
    pins=st.sets(st.integers(0, 4), max_size=2),
    asks=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.05, 1.0, 15.0])), max_size=25
    ),
    lag=st.sampled_from([0.0, 0.5, 4.0]),
)
def test_whatever_is_asked_memory_suffices_and_everybody_is_answered(
    shapes: list[tuple[int, float, float]],
    pins: set[int],
    asks: list[tuple[int, float]],
    lag: float,
) -> None:
    models = [
        FakeModel(f"m{n}", size * GIB, load, service)
        for n, (size, load, service) in enumerate(shapes)
    ]
    pinned = {f"m{n}": ModelSettings(pin=True) for n in pins}

    async def story() -> None:
        world = World(10 * GIB, lag_seconds=lag)
        async with bench(world, *models, settings=pinned) as b:
            asked = []
            for number, pause in asks:
                model = models[number % len(models)]
                asked.append((model, asyncio.create_task(b.ask(model.name))))
                await asyncio.sleep(pause)
            for model, answer in asked:
                word = await asyncio.wait_for(answer, 10_000)
                if model.size_bytes > world.total:
                    assert word == "insufficient_memory"
                elif not pinned:
                    assert word == "stop"
                else:
                    assert word in ("stop", "insufficient_memory")
            # What is pinned is still there, once it was.
            for name in pinned:
                assert (name in world.loads) <= (name in b.ready_names())
                assert name not in world.stops
        # bench() asserts: never more used than there is, never a busy runner stopped.

    run_virtually(story())
