"""Which model is loaded, waits or leaves: a real pool on a fake machine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from services.engine.front.models.client_request import QueuePosition, QueueReason
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.front.models.residency import ResidencyRules
from services.engine.messages.commands import Embed
from services.engine.messages.reports import Embedded
from services.shared.errors import EngineBusy
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import RunningPool, running_pool
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


@pytest.mark.parametrize("what", ["embed", "tokenize", "detokenize"])
def test_texts_without_end_do_not_keep_another_model_from_its_memory(what: str) -> None:
    """They come so close together that their model is never idle."""

    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, B) as running:

            async def send_texts() -> None:
                while True:
                    if what == "embed":
                        await running.manager.embed(A.manifest, Embed(id=0, inputs=()))
                    elif what == "detokenize":
                        await running.manager.detokenize(A.manifest, (), principal="")
                    else:
                        await running.manager.tokenize(
                            A.manifest, (), add_special=False, principal=""
                        )

            await running.ask("a")
            texts = []
            for _ in range(3):
                texts.append(asyncio.create_task(send_texts()))
                await asyncio.sleep(0.4)
            await asyncio.sleep(60)
            assert await asyncio.wait_for(running.ask("b"), 60) == "stop"
            await asyncio.sleep(60)
            assert running.ready_names() == {"a"}  # it came back for the texts
            for task in texts:
                task.cancel()
            assert await asyncio.gather(*texts, return_exceptions=True)
        assert machine.loads == ["a", "b", "a"]

    run_virtually(scenario())


def test_only_so_many_texts_wait_for_a_model() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, max_queued=2) as running:
            calls = [running.manager.embed(A.manifest, Embed(id=0, inputs=())) for _ in range(4)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Embedded, Embedded, EngineBusy, EngineBusy]

    run_virtually(scenario())


def test_texts_go_on_when_no_model_waits_for_the_memory_any_more() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        long = FakeModel("a", 6 * GIB, service_seconds=30.0)
        async with running_pool(machine, long, B) as running:
            answering = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(20)
            request, listener = running.send("b")
            await asyncio.sleep(1)
            embedding = asyncio.create_task(
                running.manager.embed(A.manifest, Embed(id=0, inputs=()))
            )
            await asyncio.sleep(1)
            assert running.pool.models[0].running_count == 1
            running.manager.cancel(B.manifest, request)
            await listener.ended
            await embedding
            assert await answering == "stop"
        assert machine.loads == ["a"]

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
