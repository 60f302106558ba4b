"""Which GPU a model is loaded on, and what its dry run takes: a real pool, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.front.models.planning.model_settings import ModelSettings
from services.shared.errors import InvalidSettings
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import RunningPool, running_pool
from tests.virtual_time import run_virtually

A = FakeModel("a", 6 * GIB)
B = FakeModel("b", 6 * GIB)
C = FakeModel("c", 6 * GIB)
LARGE = FakeModel("large", 16 * GIB)
FULL = FakeModel("full", 10 * GIB)
SMALL = FakeModel("small", 2 * GIB)


def places(running: RunningPool) -> dict[str, tuple[str, ...]]:
    """The devices of each loaded model."""
    return {
        model.name.split(":")[0]: model.config.devices
        for model in running.pool.models
        if model.config is not None
    }


def test_two_models_that_do_not_fit_one_gpu_are_loaded_on_two() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=2)
        async with running_pool(machine, A, B) as running:
            assert await running.ask("a") == "stop"
            assert await running.ask("b") == "stop"
            assert places(running) == {"a": ("cuda0",), "b": ("cuda1",)}
        assert machine.stops == ["a", "b"]  # at the end: none was evicted

    run_virtually(scenario())


def test_only_models_on_the_chosen_gpu_are_evicted() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=2)
        async with running_pool(machine, A, B, C) as running:
            await running.ask("a")
            await running.ask("b")
            await asyncio.sleep(60)
            assert await running.ask("c") == "stop"
            assert places(running) == {"b": ("cuda1",), "c": ("cuda0",)}

    run_virtually(scenario())


def test_a_model_too_large_for_one_gpu_is_split_over_two_and_counted_on_both() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=2)
        async with running_pool(machine, A, LARGE) as running:
            await running.ask("a")
            await asyncio.sleep(60)
            assert await running.ask("large") == "stop"
            assert places(running) == {"large": ("cuda0", "cuda1")}
            (model,) = running.pool.models
            assert model.footprint is not None
            assert {n: size for n, size in model.footprint.need.items() if n != "host"} == {
                "cuda0": 8 * GIB,
                "cuda1": 8 * GIB,
            }
            preview = await running.manager.preview_load(A.manifest, ModelSettings())
            assert preview.evict == ("large:latest",)

    run_virtually(scenario())


def test_a_model_stays_on_the_gpu_of_its_settings() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=2)
        settings = {name: ModelSettings(main_gpu=1) for name in "ab"}
        async with running_pool(machine, A, B, settings=settings) as running:
            await running.ask("a")
            await asyncio.sleep(60)
            assert await running.ask("b") == "stop"
            assert places(running) == {"b": ("cuda1",)}
        assert machine.stops == ["a", "b"]

    run_virtually(scenario())


def test_a_dry_run_waits_until_the_gpu_has_room_for_it() -> None:
    """A driver's context takes some hundred MiB, which a full GPU does not have."""

    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, FULL, SMALL) as running:
            answer = asyncio.create_task(running.ask("full"))
            await asyncio.sleep(2.9)  # it is loaded and answers
            assert await running.ask("small") == "stop"
            assert await answer == "stop"
            assert running.ready_names() == {"small"}
        # running_pool() asserts that no more memory was taken than there is.

    run_virtually(scenario())


def test_a_model_is_loaded_again_without_a_dry_run() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, B) as running:
            for name in "ababab":
                assert await running.ask(name) == "stop"
        assert len(machine.loads) == 6
        assert machine.dry_runs == 2

    run_virtually(scenario())


def test_a_load_or_a_plan_on_a_gpu_that_is_not_there_is_refused_and_changes_nothing() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=2)
        async with running_pool(machine, A) as running:
            for call in (running.manager.load, running.manager.preview_load):
                with pytest.raises(InvalidSettings) as caught:
                    await call(A.manifest, ModelSettings(main_gpu=2))
                assert caught.value.param == "main_gpu"
            assert await running.ask("a") == "stop"
        assert machine.loads == ["a"]

    run_virtually(scenario())
