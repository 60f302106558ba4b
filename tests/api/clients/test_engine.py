"""One session stream for many requests, against a real gRPC server with scripted faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from protos import engine_pb2
from services.api.clients.engine import EngineClient
from services.api.clients.generation_stream import GenerationStream
from services.shared.errors import (
    EngineUnavailable,
    InsufficientMemory,
    InvalidRequest,
    RunnerDied,
)
from services.shared.limits import MAX_SUBMIT_BYTES
from tests.fakes.scripted_engine import ScriptedEngine, delta, failed, finished


@pytest.fixture
async def client(engine: ScriptedEngine) -> AsyncIterator[EngineClient]:
    client = EngineClient(engine.address, connect_wait_seconds=10)
    await client.start()
    yield client
    await client.close()


def two_prompts(*scripts: str) -> engine_pb2.Submit:
    """A submit with a prompt for each of these scripts."""
    first, *others = [
        engine_pb2.PromptText(pieces=[engine_pb2.TextPiece(text=script)]) for script in scripts
    ]
    further = [engine_pb2.FurtherPrompt(text=text) for text in others]
    return engine_pb2.Submit(model="by prompt", text=first, further_prompts=further)


async def read_text(generation: GenerationStream) -> str:
    texts = []
    while not generation.is_over:
        texts += [event.delta.text for event in await generation.take()]
    return "".join(texts + [event.delta.text for event in await generation.take()])


async def test_requests_at_the_same_time_share_one_session(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    for number in range(30):
        engine.scripts[f"m{number}"] = [delta(f"{number}."), delta(f"{number}"), finished()]
    submits = [engine_pb2.Submit(model=f"m{number}") for number in range(30)]
    generations = [await client.generate(submit) for submit in submits]

    texts = await asyncio.gather(*(read_text(generation) for generation in generations))
    assert texts == [f"{number}.{number}" for number in range(30)]
    assert engine.sessions == 1
    assert len({submit.request_id for submit in engine.submits}) == 30


async def test_closing_cancels_once_and_only_what_is_still_running(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    engine.scripts["short"] = [finished()]
    engine.scripts["long"] = [asyncio.Event()]
    generation = await client.generate(two_prompts("short", "long"))
    await generation.take()
    generation.close()
    generation.close()

    await engine.wait_until(lambda: engine.cancels)
    assert engine.cancels == [generation.request_ids[1]]


async def test_one_error_ends_all_requests_that_belong_together(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    engine.scripts["bad"] = [failed(RunnerDied("gone"))]
    engine.scripts["long"] = [asyncio.Event()]
    generation = await client.generate(two_prompts("long", "bad"))

    with pytest.raises(RunnerDied):
        await generation.take()
    await engine.wait_until(lambda: engine.cancels)
    assert engine.cancels == [generation.request_ids[0]]


async def test_a_broken_session_fails_its_requests_and_later_ones_use_a_new_session(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    engine.scripts["long"] = [asyncio.Event()]
    running = [await client.generate(engine_pb2.Submit(model="long")) for _ in range(3)]
    await engine.wait_until(lambda: len(engine.submits) == 3)
    engine.break_sessions()

    for generation in running:
        with pytest.raises(EngineUnavailable) as caught:
            await generation.take()
        assert caught.value.retry_after_seconds
    engine.scripts["*"] = [delta("back"), finished()]
    assert await read_text(await client.generate(engine_pb2.Submit(model="m"))) == "back"
    assert engine.sessions == 2


async def test_without_an_engine_a_request_fails_after_the_connect_wait() -> None:
    client = EngineClient("127.0.0.1:1", connect_wait_seconds=0.05)
    await client.start()
    with pytest.raises(EngineUnavailable):
        await client.generate(engine_pb2.Submit(model="m"))
    with pytest.raises(EngineUnavailable):
        await client.calls.check_health()
    await client.close()


async def test_closing_the_client_fails_running_requests(engine: ScriptedEngine) -> None:
    engine.scripts["long"] = [asyncio.Event()]
    client = EngineClient(engine.address, connect_wait_seconds=10)
    await client.start()
    generation = await client.generate(engine_pb2.Submit(model="long"))
    await client.close()

    with pytest.raises(EngineUnavailable):
        await generation.take()


async def test_an_error_of_a_unary_call_keeps_its_message_and_details(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    engine.unary_error = InsufficientMemory("zu groß", details={"need_bytes": 9})

    with pytest.raises(InsufficientMemory, match="zu groß") as caught:
        await client.calls.load("m", engine_pb2.ModelSettings())
    assert caught.value.details == {"need_bytes": 9}


async def test_a_request_too_large_is_refused_and_breaks_nobody_elses_stream(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    """Seen before: 65 prompts with one constraint of 1 MiB broke the session of all."""
    engine.scripts["victim"] = [delta("Par"), asyncio.Event()]
    victim = await client.generate(engine_pb2.Submit(model="victim"))
    with pytest.raises(InvalidRequest, match="too large"):
        await client.generate(make_submit(text_bytes=MAX_SUBMIT_BYTES))

    assert [event.delta.text for event in await victim.take()] == ["Par"]
    engine.scripts["*"] = [delta("fits"), finished()]
    largest = make_submit(text_bytes=MAX_SUBMIT_BYTES - 100)
    assert await read_text(await client.generate(largest)) == "fits"
    assert engine.sessions == 1


async def test_frames_are_split(client: EngineClient, engine: ScriptedEngine) -> None:
    engine.scripts["*"] = [finished()]
    sizes = [3 << 20, 3 << 20, 1, 1, 5 << 20, 1]
    generations = [await client.generate(make_submit(text_bytes=size)) for size in sizes]
    for generation in generations:
        await generation.take()

    assert [len(frame.submits) for frame in engine.frames] == [1, 3, 1, 1]
    assert max(frame.ByteSize() for frame in engine.frames) <= MAX_SUBMIT_BYTES


async def test_a_request_that_is_closed_before_it_was_sent_is_not_sent(
    client: EngineClient, engine: ScriptedEngine
) -> None:
    engine.scripts["*"] = [finished()]
    early = await client.generate(engine_pb2.Submit(model="early"))
    early.close()
    await (await client.generate(engine_pb2.Submit(model="next"))).take()

    assert [submit.model for submit in engine.submits] == ["next"]
    assert not engine.cancels


def make_submit(*, text_bytes: int) -> engine_pb2.Submit:
    pieces = [engine_pb2.TextPiece(text="x" * text_bytes)]
    return engine_pb2.Submit(model="m", text=engine_pb2.PromptText(pieces=pieces))


async def test_a_wait_for_a_session_ends_when_the_client_is_closed() -> None:
    client = EngineClient("127.0.0.1:1", connect_wait_seconds=600)
    await client.start()
    waiting = asyncio.create_task(client.generate(engine_pb2.Submit(model="m")))
    await asyncio.sleep(0)
    await client.close()

    for late in (waiting, client.generate(engine_pb2.Submit(model="m"))):
        with pytest.raises(EngineUnavailable, match="stopping"):
            await late
    assert not client.is_connected
