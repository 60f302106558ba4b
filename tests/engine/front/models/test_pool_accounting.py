"""What a runner really takes is counted, whatever its dry run estimated; in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.memory.estimate import Footprint
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import RunningPool, running_pool
from tests.virtual_time import run_virtually

WHERE = pytest.mark.parametrize("device_count", [1, 0], ids=["on a gpu", "in main memory"])


def get_footprint(running: RunningPool, name: str) -> Footprint:
    (footprint,) = (m.footprint for m in running.pool.models if m.name == f"{name}:latest")
    assert footprint is not None
    return footprint


def get_need(running: RunningPool, name: str) -> int:
    """The bytes that are promised to a model in the first pool that its weights are in."""
    need = get_footprint(running, name).need
    return need.get("cuda0", 0) or need["host"]


@WHERE
def test_a_load_that_takes_more_than_estimated_is_counted_with_what_it_takes(
    device_count: int,
) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=device_count)
        hungry = FakeModel("hungry", 4 * GIB, unknown_bytes=GIB)
        other = FakeModel("other", 5 * GIB + 1)
        async with running_pool(machine, hungry, other) as running:
            await running.ask("hungry")
            assert get_need(running, "hungry") == 5 * GIB
            assert get_footprint(running, "hungry").source == "earlier load"
            await asyncio.sleep(60)
            await running.ask("other")  # a byte more than there is beside it
            assert running.ready_names() == {"other"}
            await asyncio.sleep(60)
            await running.ask("hungry")  # now it is known before the load
            assert running.ready_names() == {"hungry"}
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())


@WHERE
def test_a_load_that_takes_less_than_estimated_keeps_what_its_buffers_may_take(
    device_count: int,
) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=device_count)
        frugal = FakeModel("frugal", 6 * GIB, unknown_bytes=-2 * GIB)
        async with running_pool(machine, frugal) as running:
            await running.ask("frugal")
            footprint = get_footprint(running, "frugal")
            assert get_need(running, "frugal") == max(footprint.pool_bytes.values())

    run_virtually(scenario())


def test_what_two_loads_at_once_take_from_a_gpu_corrects_no_estimate() -> None:
    async def scenario() -> None:
        machine = FakeMachine(20 * GIB)
        models = FakeModel("a", 4 * GIB), FakeModel("b", 2 * GIB)
        async with running_pool(machine, *models) as running:
            await asyncio.gather(running.ask("a"), running.ask("b"))
            assert [get_need(running, name) for name in "ab"] == [4 * GIB, 2 * GIB]

    run_virtually(scenario())


def test_the_memory_of_a_dry_run_beside_a_load_is_not_the_models() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, FakeModel("a", 2 * GIB), FakeModel("b", 9 * GIB)) as run:
            answers = run.ask("a"), run.ask("b")  # b's dry run has ended when a is ready
            first, second = (asyncio.create_task(answer) for answer in answers)
            assert await first == "stop"
            assert get_need(run, "a") == 2 * GIB
            assert await second == "stop"

    run_virtually(scenario())


def test_the_memory_of_a_model_that_leaves_during_a_load_is_not_counted_against_it() -> None:
    async def scenario() -> None:
        machine = FakeMachine(20 * GIB)
        async with running_pool(machine, FakeModel("a", 6 * GIB), FakeModel("b", 2 * GIB)) as run:
            await run.ask("b")
            answer = asyncio.create_task(run.ask("a"))
            await asyncio.sleep(1)
            await run.manager.unload(run.machine.models["b"].manifest, force=False)
            assert await answer == "stop"
            assert get_need(run, "a") == 6 * GIB

    run_virtually(scenario())


def test_memory_that_another_program_takes_during_a_load_is_not_the_models() -> None:
    async def scenario() -> None:
        machine = FakeMachine(20 * GIB)
        async with running_pool(machine, FakeModel("a", 4 * GIB)) as running:
            answer = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(1)
            machine.other_processes_bytes = 8 * GIB
            await answer
            assert get_need(running, "a") == 4 * GIB

    run_virtually(scenario())


def test_memory_that_requests_take_later_is_counted_and_evicts_in_time() -> None:
    """Such as the grammars of answers under way."""

    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=0)
        growing = FakeModel("growing", 4 * GIB, growth_bytes=GIB, service_seconds=30.0)
        other = FakeModel("other", 5 * GIB + 1)
        async with running_pool(machine, growing, other) as running:
            answer = asyncio.create_task(running.ask("growing"))
            await asyncio.sleep(10)
            assert get_need(running, "growing") == 5 * GIB
            assert await running.ask("other") == "stop"
            assert await answer == "stop"
            assert running.ready_names() == {"other"}

    run_virtually(scenario())


def test_host_memory_beside_a_gpu_is_counted_too() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        growing = FakeModel("growing", 4 * GIB, growth_bytes=GIB, service_seconds=30.0)
        async with running_pool(machine, growing) as running:
            answer = asyncio.create_task(running.ask("growing"))
            await asyncio.sleep(10)
            assert get_footprint(running, "growing").need == {"cuda0": 4 * GIB, "host": GIB}
            await answer

    run_virtually(scenario())
