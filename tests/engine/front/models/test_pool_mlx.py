"""One MLX model at a time, as on a Mac: a real pool on a fake machine, in virtual time."""

from __future__ import annotations

import asyncio

from services.engine.front.models.planning.model_settings import ModelSettings
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import running_pool
from tests.virtual_time import run_virtually

# Together they take a third of the machine: memory is never the reason.
A = FakeModel("a", 4 * GIB, service_seconds=30.0, format="mlx")
B = FakeModel("b", 4 * GIB, format="mlx")
C = FakeModel("c", 4 * GIB, format="mlx")
GGUF = FakeModel("gguf", 4 * GIB)
MAC = 40 * GIB


def test_an_idle_mlx_model_leaves_for_another_one_and_a_gguf_model_stays() -> None:
    async def scenario() -> None:
        machine = FakeMachine(MAC, device_count=0)
        async with running_pool(machine, A, B, GGUF, is_mlx_exclusive=True) as running:
            await running.ask("a")
            await running.ask("gguf")
            assert running.ready_names() == {"a", "gguf"}
            assert await running.ask("b") == "stop"
            assert running.ready_names() == {"b", "gguf"}
        assert machine.stops[0] == "a"

    run_virtually(scenario())


def test_the_second_process_starts_after_the_first_has_ended() -> None:
    async def scenario() -> None:
        machine = FakeMachine(MAC, device_count=0)
        async with running_pool(machine, A, B, C, is_mlx_exclusive=True) as running:
            asked = [asyncio.create_task(running.ask(name)) for name in ("a", "b", "c", "a", "b")]
            most = 0
            while not all(task.done() for task in asked):
                most = max(most, sum(pid > 0 for pid in machine.used_bytes))  # not a dry run's
                await asyncio.sleep(0.05)
            assert [await task for task in asked] == ["stop"] * 5
        assert most == 1

    run_virtually(scenario())


def test_a_busy_mlx_model_is_waited_for_and_holds_back_no_gguf_model() -> None:
    async def scenario() -> None:
        machine = FakeMachine(MAC, device_count=0)
        async with running_pool(machine, A, B, GGUF, is_mlx_exclusive=True) as running:
            first = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(10)
            second = asyncio.create_task(running.ask("b"))
            await asyncio.sleep(1)
            assert await running.ask("gguf") == "stop"
            assert not first.done()
            assert await first == "stop"  # the machine records a stop of a busy runner
            assert await second == "stop"

    run_virtually(scenario())


def test_beside_a_pinned_mlx_model_another_one_is_refused_in_words() -> None:
    async def scenario() -> None:
        machine = FakeMachine(MAC, device_count=0)
        pins = {"a": ModelSettings(pin=True)}
        async with running_pool(machine, A, B, settings=pins, is_mlx_exclusive=True) as running:
            await running.ask("a")
            assert await running.ask("b") == "insufficient_memory"
            preview = await running.manager.preview_load(B.manifest, ModelSettings())
        assert preview.decision is not None
        assert preview.decision.explanation == (
            "does not fit; one MLX model is loaded at a time on a Mac, and a:latest is pinned"
        )

    run_virtually(scenario())


def test_a_preview_says_which_mlx_model_leaves_and_why() -> None:
    async def scenario() -> None:
        machine = FakeMachine(MAC, device_count=0)
        async with running_pool(machine, A, B, is_mlx_exclusive=True) as running:
            await running.ask("a")
            await asyncio.sleep(60)
            preview = await running.manager.preview_load(B.manifest, ModelSettings())
        assert preview.evict == ("a:latest",)
        assert preview.decision is not None
        assert preview.decision.explanation == (
            "fits after a:latest is evicted; one MLX model is loaded at a time on a Mac"
        )

    run_virtually(scenario())


def test_elsewhere_mlx_models_are_loaded_side_by_side() -> None:
    async def scenario() -> None:
        machine = FakeMachine(MAC, device_count=0)
        async with running_pool(machine, A, B) as running:
            await running.ask("a")
            await running.ask("b")
            assert running.ready_names() == {"a", "b"}

    run_virtually(scenario())
