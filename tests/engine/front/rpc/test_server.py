"""The front through its gRPC service, with a scripted runner in a real child process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import unquote

import grpc
import pytest
from grpc import aio

from protos import engine_pb2 as pb
from services.engine.front.rpc.answering import GRPC_STATUS, to_grpc_status
from services.engine.front.rpc.server import read_frames
from services.engine.front.rpc.session import Session
from services.shared.errors import every_error
from services.shared.limits import MAX_DETOKENIZED_TOKENS
from services.shared.store.manifest import Description
from services.shared.store.model_store import ModelStore
from tests.engine.engine_server import add_scripted_model, eventually, running_front
from tests.fakes.scripted_runner import Script


async def test_an_answer_has_text_and_a_finish_reason_with_counts(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        text, last = await client.ask("words", "one two three")

    assert text == "one two three "
    assert last.finished.reason == pb.FINISH_REASON_LENGTH
    assert (last.finished.prompt_tokens, last.finished.completion_tokens) == (3, 3)


async def test_while_a_model_loads_its_requests_get_their_position(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "slow", Script(load_seconds=0.3))
    async with running_front(tmp_path) as front:
        client = front.client()
        first = await client.submit("slow", "a")
        second = await client.submit("slow", "b")
        places = [(await client.event(n)).queued for n in (first, second)]

        assert [(p.position, p.reason) for p in places] == [
            (1, pb.QUEUE_REASON_LOADING),
            (2, pb.QUEUE_REASON_LOADING),
        ]
        assert (await client.answer(first))[0] == "a "
        assert (await client.answer(second))[0] == "b "


async def test_an_unknown_model_fails_its_own_request_only(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        _, last = await client.ask("unknown", "hello")
        text, _ = await client.ask("words", "hello")

    assert last.error.code == "model_not_found"
    assert json.loads(last.error.details) == {"models": ["words:latest"]}
    assert text == "hello "


async def test_health_and_loaded_answer_while_a_model_loads(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "stuck", Script(never_ready=True))
    async with running_front(tmp_path) as front:
        client = front.client()
        await client.until(await client.submit("stuck", "a"), "queued")
        await eventually(lambda: front.engine.pool.models and _runner(front) is not None)
        health = await front.stub.Health(pb.HealthRequest(), timeout=5)
        loaded = await front.loaded()

    assert health.accepting
    assert [(m.name, m.state, m.queued) for m in loaded.models] == [
        ("stuck:latest", pb.MODEL_STATE_LOADING, 1)
    ]
    assert loaded.models[0].pid > 0


def _runner(front: object) -> object:
    return next(iter(front.engine.pool.models)).runner  # type: ignore[attr-defined]


async def test_a_cancelled_request_ends_and_the_others_go_on(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        endless = await client.submit("words", "!slow x", stopping=pb.Stopping(max_tokens=10_000))
        await client.until(endless, "delta")
        other = await client.submit("words", "y", stopping=pb.Stopping(max_tokens=5))
        await client.cancel(endless)
        _, last = await client.answer(endless)
        text, _ = await client.answer(other)

    assert last.finished.reason == pb.FINISH_REASON_CANCELLED
    assert text == "y " * 5


async def test_a_request_cancelled_while_it_waits_ends_at_once(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "stuck", Script(never_ready=True))
    async with running_front(tmp_path) as front:
        client = front.client()
        waiting = await client.submit("stuck", "a", n=2)
        await client.until(waiting, "queued")
        await client.cancel(waiting)
        ends = [await client.event(waiting) for _ in range(2)]

    assert [(e.index, e.finished.reason) for e in ends] == [
        (0, pb.FINISH_REASON_CANCELLED),
        (1, pb.FINISH_REASON_CANCELLED),
    ]


async def test_a_broken_stream_cancels_its_requests(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        endless = await client.submit("words", "!slow x", stopping=pb.Stopping(max_tokens=10_000))
        await client.until(endless, "delta")
        await client.close()
        (model,) = front.engine.pool.models

        await eventually(lambda: model.running_count == 0)


async def test_a_client_that_stops_sending_still_gets_its_answers(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        request = await client.submit("words", "a b c")
        await client.done_writing()
        text, _ = await client.answer(request)
        await client.wait_for_end()

    assert text == "a b c "


async def test_a_reader_that_stalls_gets_merged_deltas_and_delays_no_other(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        stalled = front.stub.Session()
        message = pb.Submit(
            request_id=1,
            model="words",
            text=pb.PromptText(pieces=[pb.TextPiece(text="stall " + "x" * 20_000)]),
            stopping=pb.Stopping(max_tokens=1500),
        )
        await stalled.write(pb.ClientFrame(submits=[message]))
        client = front.client()
        text, _ = await client.ask("words", "live", stopping=pb.Stopping(max_tokens=100))
        assert text == "live " * 100

        (model,) = front.engine.pool.models
        await eventually(lambda: model.running_count == 0)
        deltas, received = 0, ""
        async for frame in stalled:
            for event in frame.events:
                deltas += event.HasField("delta")
                received += event.delta.text
            if frame.events[-1].HasField("finished"):
                break
        stalled.cancel()

    assert received == ("stall " + "x" * 20_000 + " ") * 750
    assert deltas < 1500


async def test_a_request_id_that_is_in_use_is_refused(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "stuck", Script(never_ready=True))
    async with running_front(tmp_path) as front:
        client = front.client()
        request = await client.submit("stuck", "a")
        await client.until(request, "queued")
        client._last_id -= 1
        events = client._events[request]
        await client.submit("stuck", "b")
        client._events[request] = events
        event = await client.event(request)

    assert event.error.code == "invalid_request"


async def test_an_invalid_field_is_named(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        _, last = await front.client().ask("words", "a", sampling=pb.Sampling(top_p=1.5))

    assert (last.error.code, last.error.param) == ("invalid_request", "top_p")


async def test_tokenize_loads_the_model_and_returns_the_ids(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        text = pb.PromptText(pieces=[pb.TextPiece(text="a bb ccc")])
        answer = await front.stub.Tokenize(pb.TokenizeRequest(model="words", text=text))

    assert list(answer.ids) == [1, 2, 3]


async def test_detokenize_loads_the_model_and_returns_the_text(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        answer = await front.stub.Detokenize(pb.DetokenizeRequest(model="words", ids=[1, 2]))
        with pytest.raises(aio.AioRpcError, match="more than") as caught:
            await front.stub.Detokenize(
                pb.DetokenizeRequest(model="words", ids=[1] * (MAX_DETOKENIZED_TOKENS + 1))
            )

    assert answer.text == "x xx"
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_model_that_is_no_longer_stored_can_be_unloaded(tmp_path: Path) -> None:
    manifest = add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        await front.client().ask("words", "one")
        ModelStore(tmp_path / "models").delete(manifest.name)
        unloaded = await front.stub.Unload(pb.UnloadRequest(model=manifest.name), timeout=20)

        assert unloaded.was_loaded
        assert not (await front.loaded()).models


async def test_context_lengths_are_what_models_have_or_would_get(tmp_path: Path) -> None:
    description = Description(format="gguf", architecture="llama", context_length=131072)
    add_scripted_model(tmp_path, "large", description=description)
    add_scripted_model(tmp_path, "set", description=description, params={"num_ctx": 512})
    async with running_front(tmp_path, context_length=8192) as front:
        asked = pb.ContextLengthsRequest(models=["large:latest", "set:latest", "none:latest"])
        before = await front.stub.ContextLengths(asked)
        await front.client().ask("large", "one")
        loaded = (await front.loaded()).models[0].context_length
        after = await front.stub.ContextLengths(asked)

    assert dict(before.context_lengths) == {"large:latest": 8192, "set:latest": 512}
    assert after.context_lengths["large:latest"] == loaded


async def test_the_metadata_of_a_failed_unary_call_hold_the_whole_error(tmp_path: Path) -> None:
    async with running_front(tmp_path) as front:
        with pytest.raises(aio.AioRpcError) as caught:
            await front.stub.Load(pb.LoadRequest(model="unknown"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    error = json.loads(unquote(dict(caught.value.trailing_metadata() or ())["spindll-error"]))
    assert error["code"] == "model_not_found"
    assert error["details"] == {"models": []}


async def test_an_unexpected_error_shows_the_client_no_detail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_front(tmp_path) as front:
        monkeypatch.setattr(front.engine.pool, "list_problems", lambda: 1 / 0)
        with pytest.raises(aio.AioRpcError) as caught:
            await front.stub.Health(pb.HealthRequest())

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error"


async def test_many_sessions_share_one_model(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        clients = [front.client() for _ in range(8)]
        answers = await asyncio.gather(
            *(
                c.ask("words", f"w{n}", stopping=pb.Stopping(max_tokens=50))
                for n, c in enumerate(clients)
            )
        )
        loaded = await front.loaded()

    assert [text for text, _ in answers] == [f"w{n} " * 50 for n in range(8)]
    assert len(loaded.models) == 1


async def test_a_session_whose_frames_cannot_be_read_is_closed() -> None:
    calls: list[str] = []

    def fail(_frame: pb.ClientFrame) -> None:
        raise RuntimeError("a bug of the front")

    async def frames() -> AsyncIterator[pb.ClientFrame]:
        yield pb.ClientFrame()

    session = SimpleNamespace(
        receive=fail, close=lambda: calls.append("close"), finish=lambda: calls.append("finish")
    )
    await read_frames(cast("Session", session), frames())

    assert calls == ["close"]


@pytest.mark.parametrize("error", every_error(), ids=lambda cls: cls.code)
def test_every_error_has_a_status(error: type) -> None:
    assert to_grpc_status(error("x")) in GRPC_STATUS.values()
