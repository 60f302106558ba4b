"""How the pool accounts for memory: a real pool on a fake machine, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.front.models.planning.model_settings import ModelSettings
from services.shared.errors import Unavailable
from services.shared.memory_assumptions import DEVICE_CONTEXT_BYTES
from tests.fakes.fake_machine import GIB, FakeMachine, FakeModel
from tests.fakes.running_pool import running_pool
from tests.virtual_time import run_virtually

A = FakeModel("a", 6 * GIB)
B = FakeModel("b", 6 * GIB)
BIG = FakeModel("big", 20 * GIB)


def test_the_memory_of_a_crashed_runner_counts_as_used_until_the_driver_frees_it() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, release_seconds=3.0)
        async with running_pool(machine, A, B) as running:
            await running.ask("a")
            machine.runners["a"].kill("was ended by SIGKILL")
            assert await running.ask("b") == "stop"
        assert machine.max_used_bytes <= 10 * GIB

    run_virtually(scenario())


@pytest.mark.parametrize("device_count", [1, 0], ids=["on a device", "in main memory"])
def test_a_loaded_models_weights_are_counted_once(device_count: int) -> None:
    async def scenario() -> None:
        machine = FakeMachine(16 * GIB, device_count=device_count)
        half, large = FakeModel("half", 10 * GIB), FakeModel("large", 15 * GIB)
        async with running_pool(machine, A, half, large) as running:
            await running.ask("a")
            assert await running.ask("half") == "stop"
            assert running.ready_names() == {"a", "half"}
            await asyncio.sleep(60)
            assert await running.ask("large") == "stop"  # after both are evicted
            assert running.ready_names() == {"large"}

    run_virtually(scenario())


@pytest.mark.parametrize(
    ("failures", "outcome"), [(1, "stop"), (2, "insufficient_memory")], ids=["once", "twice"]
)
def test_a_load_that_ran_out_of_memory_is_tried_once_more_with_a_larger_promise(
    failures: int, outcome: str
) -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(
            machine, FakeModel("a", 4 * GIB, out_of_memory_loads=failures)
        ) as running:
            answer = asyncio.create_task(running.ask("a"))
            promises: set[int] = set()
            while not answer.done():
                promises.update(
                    m.footprint.need["cuda0"]
                    for m in running.pool.models
                    if m.footprint and m.config
                )
                await asyncio.sleep(0.1)
            assert await answer == outcome
        assert machine.loads == ["a", "a"]
        sizes = 4 * GIB - DEVICE_CONTEXT_BYTES
        assert promises == {4 * GIB, 4 * GIB + sizes // 4}

    run_virtually(scenario())


def test_a_pinned_model_that_loads_for_long_fails_no_other_model() -> None:
    async def scenario() -> None:
        machine = FakeMachine(20 * GIB)
        pinned, small = FakeModel("pinned", 10 * GIB, load_seconds=240.0), FakeModel("x", 6 * GIB)
        pins = {"pinned": ModelSettings(pin=True)}
        async with running_pool(machine, pinned, small, settings=pins) as running:
            loading = asyncio.create_task(running.ask("pinned"))
            await asyncio.sleep(90)
            assert await running.ask("x") == "stop"
            assert await loading == "stop"

    run_virtually(scenario())


def test_the_dry_run_of_a_pinned_model_fails_no_other_model() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, release_seconds=0.5)
        large = FakeModel("large", 9 * GIB, load_seconds=20.0, service_seconds=30.0)
        refused = FakeModel("refused", 2 * GIB, load_seconds=20.0)
        small = FakeModel("small", 1 * GIB, load_seconds=20.0)
        pins = {name: ModelSettings(pin=True) for name in ("large", "refused")}
        async with running_pool(machine, large, refused, small, settings=pins) as running:
            first = asyncio.create_task(running.ask("large"))
            await asyncio.sleep(1)
            second = asyncio.create_task(running.ask("refused"))
            assert await running.ask("small") == "stop"
            assert await second == "insufficient_memory"
            assert await first == "stop"

    run_virtually(scenario())


def test_the_wait_for_other_programs_starts_over_each_time() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        busy, large = FakeModel("busy", 4 * GIB, service_seconds=200.0), FakeModel("a", 8 * GIB)
        async with running_pool(machine, busy, large) as running:
            answering = asyncio.create_task(running.ask("busy"))
            await asyncio.sleep(10)
            machine.other_processes_bytes = 3 * GIB
            _, listener = running.send("a")
            await asyncio.sleep(1)
            machine.other_processes_bytes = 0
            await asyncio.sleep(80)  # behind the busy model
            machine.other_processes_bytes = 3 * GIB
            await asyncio.sleep(0.6)
            machine.other_processes_bytes = 0
            await listener.ended
            assert listener.outcome == "stop"
            assert await answering == "stop"

    run_virtually(scenario())


def test_a_preview_names_what_would_be_evicted_and_changes_nothing() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        async with running_pool(machine, A, B, BIG) as running:
            await running.ask("a")
            await asyncio.sleep(60)
            evict = await running.manager.preview_load(B.manifest, ModelSettings())
            impossible = await running.manager.preview_load(BIG.manifest, ModelSettings())
            loaded = await running.manager.preview_load(A.manifest, ModelSettings())
            assert running.ready_names() == {"a"}
        assert evict.decision is not None
        assert evict.evict == ("a:latest",)
        assert evict.decision.explanation == (
            "fits after a:latest is evicted; cuda0: needs 6.0 GiB, available 4.0 GiB "
            "(limit 10.0 GiB, models hold 6.0 GiB, free on the machine 4.0 GiB)"
        )
        assert impossible.decision is not None
        assert impossible.decision.explanation == (
            "does not fit; cuda0: needs 20.0 GiB, but at most 10.0 GiB can be made free (limit "
            "10.0 GiB, pinned models hold 0 MiB, free on the machine 4.0 GiB)"
        )
        assert loaded.decision is None

    run_virtually(scenario())


def test_memory_that_other_processes_use_is_not_given_to_models() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        machine.other_processes_bytes = 5 * GIB
        async with running_pool(machine, A) as running:
            with pytest.raises(Unavailable, match=r"free on the machine 5\.0 GiB") as raised:
                await running.manager.load_and_wait(A.manifest)
        assert raised.value.retry_after_seconds == 60.0

    run_virtually(scenario())


def test_a_model_is_loaded_once_another_program_frees_its_memory() -> None:
    async def scenario() -> None:
        machine = FakeMachine(10 * GIB)
        machine.other_processes_bytes = 5 * GIB
        small = FakeModel("small", 3 * GIB)
        async with running_pool(machine, A, small) as running:
            waiting = asyncio.create_task(running.ask("a"))
            await asyncio.sleep(30)
            assert await running.ask("small") == "stop"  # what waits holds back no other model
            machine.other_processes_bytes = 0
            assert await waiting == "stop"

    run_virtually(scenario())


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
    requests=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.05, 1.0, 15.0])), max_size=25
    ),
    release_seconds=st.sampled_from([0.0, 0.5, 4.0]),
    device_count=st.sampled_from([0, 1, 2]),
)
def test_any_mix_of_requests_is_answered_and_stays_within_memory(
    shapes: list[tuple[int, float, float]],
    pins: set[int],
    requests: list[tuple[int, float]],
    release_seconds: float,
    device_count: int,
) -> None:
    models = [
        FakeModel(f"m{n}", size * GIB, load, service)
        for n, (size, load, service) in enumerate(shapes)
    ]
    pinned = {f"m{n}": ModelSettings(pin=True) for n in pins}

    async def scenario() -> None:
        machine = FakeMachine(10 * GIB, release_seconds=release_seconds, device_count=device_count)
        all_bytes = machine.total_bytes * len(machine.pools)
        async with running_pool(machine, *models, settings=pinned) as running:
            asked = []
            for number, pause in requests:
                model = models[number % len(models)]
                asked.append((model, asyncio.create_task(running.ask(model.name))))
                await asyncio.sleep(pause)
            for model, answer in asked:
                outcome = await asyncio.wait_for(answer, 10_000)
                pinned_bytes = sum(
                    other.size_bytes
                    for other in models
                    if other is not model and other.name in pinned and other.name in machine.loads
                )
                if model.size_bytes > all_bytes:
                    assert outcome == "insufficient_memory"
                elif not pinned_bytes or model.size_bytes + pinned_bytes <= machine.total_bytes:
                    assert outcome == "stop"
                else:  # refused if the pinned ones were loaded first
                    assert outcome in ("stop", "insufficient_memory")
            # A pinned model that was loaded is still loaded.
            for name in pinned:
                assert (name in machine.loads) <= (name in running.ready_names())
                assert name not in machine.stops
        # running_pool() asserts that memory sufficed and that no busy runner was stopped.

    run_virtually(scenario())
