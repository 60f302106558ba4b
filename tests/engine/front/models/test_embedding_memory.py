"""The context for embeddings of a chat model has its memory before it is created; virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.front.models.planning.model_settings import ModelSettings
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import RunningPool, running_pool
from tests.virtual_time import run_virtually

CHAT = FakeModel("chat", 4 * GIB, embedding_bytes=2 * GIB)
OTHER = FakeModel("other", 5 * GIB)
WHERE = pytest.mark.parametrize("device_count", [1, 0], ids=["on a gpu", "in main memory"])


def committed_bytes(running: RunningPool, name: str) -> int:
    (model,) = (m for m in running.pool.models if m.name == f"{name}:latest")
    assert model.footprint is not None
    need = model.footprint.need
    return need.get("cuda0", 0) or need["host"]


@WHERE
def test_an_idle_model_is_evicted_for_it(device_count: int) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=device_count)
        async with running_pool(machine, CHAT, OTHER) as running:
            await running.ask("other")
            await running.ask("chat")
            await asyncio.sleep(60)
            assert await running.embed("chat") == "embedded"
            assert running.ready_names() == {"chat"}
            assert committed_bytes(running, "chat") == 6 * GIB
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())


@WHERE
def test_beside_a_busy_model_texts_are_refused_for_now(device_count: int) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, device_count=device_count)
        busy = FakeModel("busy", 5 * GIB, service_seconds=120.0)
        async with running_pool(machine, CHAT, busy) as running:
            await running.ask("chat")
            answering = asyncio.create_task(running.ask("busy"))
            await asyncio.sleep(60)
            assert await running.embed("chat") == "unavailable"
            assert await running.ask("chat") == "stop"
            assert await answering == "stop"
            await asyncio.sleep(60)
            assert await running.embed("chat") == "embedded"
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())


def test_a_model_that_is_leaving_is_waited_for() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, release_seconds=3.0)
        async with running_pool(machine, CHAT, OTHER) as running:
            await running.ask("other")
            await running.embed("chat")  # the plan for its embeddings is known from now on
            await running.manager.unload(CHAT.manifest, force=False)
            await running.ask("chat")
            await running.ask("other")
            await asyncio.sleep(60)
            leaving = asyncio.create_task(running.manager.unload(OTHER.manifest, force=False))
            await asyncio.sleep(0)
            assert await running.embed("chat") == "embedded"
            assert await leaving
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())


def test_one_that_never_fits_is_refused_and_nothing_is_evicted_for_it() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        large = FakeModel("large", 7 * GIB, embedding_bytes=4 * GIB)
        small = FakeModel("small", 2 * GIB)
        async with running_pool(machine, large, small) as running:
            await running.ask("small")
            await running.ask("large")
            await asyncio.sleep(60)
            assert await running.embed("large") == "insufficient_memory"
            assert running.ready_names() == {"large", "small"}
            assert await running.ask("large") == "stop"

    run_virtually(scenario())


def test_a_pinned_model_is_not_evicted_for_it() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        pins = {"other": ModelSettings(pin=True)}
        async with running_pool(machine, CHAT, OTHER, settings=pins) as running:
            await running.ask("other")
            await running.ask("chat")
            await asyncio.sleep(60)
            assert await running.embed("chat") == "insufficient_memory"
            assert running.ready_names() == {"chat", "other"}

    run_virtually(scenario())


def test_another_model_does_not_get_what_is_committed_but_not_taken_yet() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        slow = FakeModel("slow", 4 * GIB, embedding_bytes=2 * GIB, service_seconds=30.0)
        async with running_pool(machine, slow, OTHER) as running:
            await running.ask("slow")
            embedding = asyncio.create_task(running.embed("slow"))
            await asyncio.sleep(10)  # committed; the runner takes it after 30 seconds
            asked = asyncio.create_task(running.ask("other"))
            await asyncio.sleep(10)
            assert running.ready_names() == {"slow"}
            assert await embedding == "embedded"
            assert await asked == "stop"
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())


def test_texts_that_come_at_once_share_one_plan() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, CHAT) as running:
            await running.ask("chat")
            before = machine.dry_runs
            answers = await asyncio.gather(*(running.embed("chat") for _ in range(20)))
            assert set(answers) == {"embedded"}
            assert machine.dry_runs == before + 1
            assert committed_bytes(running, "chat") == 6 * GIB

    run_virtually(scenario())


def test_a_model_that_leaves_while_its_room_is_made_is_loaded_again() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, CHAT, OTHER) as running:
            await running.ask("other")
            await running.ask("chat")
            await asyncio.sleep(60)
            embedding = asyncio.create_task(running.embed("chat"))
            await asyncio.sleep(0.55)  # the dry run is over, the other model leaves
            await running.manager.unload(CHAT.manifest, force=False)
            assert await embedding == "embedded"
            assert machine.loads == ["other", "chat", "chat"]
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())
