"""The public gRPC service, through a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from services.api.dialects.grpc.calls import GRPC_STATUS
from services.shared.errors import ContextLengthExceeded, EngineBusy, every_error
from tests.api.conftest import Api, make_description, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine, delta, failed
from tests.waiting import free_port

if TYPE_CHECKING:
    from protos.spindll_pb2_grpc import SpindllAsyncStub

FRANCE = [spindll_pb2.Message(role="user", content="What is the capital of France?")]


class GrpcApi:
    """A worker and a stub for its gRPC service."""

    def __init__(self, api: Api, stub: SpindllAsyncStub) -> None:
        self.api = api
        self.stub = stub

    def user(self) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {self.api.user_key}"),), "timeout": 20}

    def admin(self) -> dict[str, Any]:
        return {"metadata": (("x-api-key", self.api.admin_key),), "timeout": 20}


@pytest.fixture
async def served(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[GrpcApi]:
    put_model(tmp_path / "data" / "models", make_manifest())
    port = free_port()
    async with (
        running_api(tmp_path, redis_url, engine, grpc_port=port, drain_seconds=0.1) as api,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield GrpcApi(api, SpindllStub(channel))


async def read_status(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status code and the details of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_all(call)
    return caught.value.code(), caught.value.details() or ""


async def _read_all(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        _ = [message async for message in call]
    else:
        await call


async def test_a_chat_streams_tokens_and_ends_with_usage(served: GrpcApi) -> None:
    request = spindll_pb2.ChatRequest(model="tiny", messages=FRANCE)
    answers = [a async for a in served.stub.Chat(request, **served.user())]

    assert "".join(a.token for a in answers) == "Paris."
    assert [a.done for a in answers] == [False] * (len(answers) - 1) + [True]
    assert (answers[-1].usage.prompt_tokens, answers[-1].usage.completion_tokens) == (7, 2)
    assert answers[-1].usage.tokens_per_second > 0
    assert not answers[0].HasField("usage")


async def test_params_reach_the_engine_and_the_default_is_512_tokens(served: GrpcApi) -> None:
    params = spindll_pb2.GenerateParams(temperature=0, top_k=-1, stop=["\n"], seed=3)
    request = spindll_pb2.ChatRequest(model="tiny", messages=FRANCE, params=params)
    _ = [a async for a in served.stub.Chat(request, **served.user())]

    submit = served.api.engine.submits[0]
    assert (submit.sampling.temperature, submit.sampling.top_k, submit.sampling.seed) == (0, 0, 3)
    assert submit.stopping.max_tokens == 512
    assert list(submit.stopping.strings) == ["\n"]
    assert submit.text.pieces[0].text.endswith("<|im_start|>assistant\n")


async def test_generate_sends_the_prompt_unchanged(served: GrpcApi) -> None:
    params = spindll_pb2.GenerateParams(max_tokens=-1)
    request = spindll_pb2.GenerateRequest(model="tiny", prompt="The city", params=params)
    answers = [a async for a in served.stub.Generate(request, **served.user())]

    assert "".join(a.token for a in answers) == "Paris."
    assert served.api.engine.submits[0].text.pieces[0].text == "The city"
    assert not served.api.engine.submits[0].stopping.HasField("max_tokens")


async def test_a_call_without_a_key_is_unauthenticated(served: GrpcApi) -> None:
    chat = served.stub.Chat(spindll_pb2.ChatRequest(model="tiny", messages=FRANCE))
    listing = served.stub.List(spindll_pb2.ListRequest())

    assert (await read_status(chat))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert (await read_status(listing))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_prompt_that_is_too_long_names_its_field(served: GrpcApi) -> None:
    served.api.engine.scripts["*"] = [failed(ContextLengthExceeded("too long"))]
    chat = spindll_pb2.ChatRequest(model="tiny", messages=FRANCE)
    generate = spindll_pb2.GenerateRequest(model="tiny", prompt="The city")
    fields = []
    for call in (
        served.stub.Chat(chat, **served.user()),
        served.stub.Generate(generate, **served.user()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_all(call)
        fields.append(dict(caught.value.trailing_metadata() or ())["spindll-error-field"])

    assert fields == ["messages", "prompt"]


@pytest.mark.parametrize("length", [1, 16, 31, 33])
async def test_an_encryption_key_of_another_length_is_refused(served: GrpcApi, length: int) -> None:
    request = spindll_pb2.ChatRequest(model="tiny", messages=FRANCE, encryption_key=b"k" * length)
    code, details = await read_status(served.stub.Chat(request, **served.user()))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "32 bytes" in details
    assert not served.api.engine.submits


async def test_the_encryption_key_of_a_chat_reaches_the_engine(served: GrpcApi) -> None:
    request = spindll_pb2.ChatRequest(model="tiny", messages=FRANCE, encryption_key=b"k" * 32)
    _ = [a async for a in served.stub.Chat(request, **served.user())]

    assert served.api.engine.submits[0].private_cache_key == b"k" * 32


async def test_a_prefill_computes_the_messages_without_the_answers_beginning(
    served: GrpcApi,
) -> None:
    request = spindll_pb2.PrefillRequest(model="tiny", messages=FRANCE, encryption_key=b"k" * 32)
    answer = await served.stub.Prefill(request, **served.user())
    (submit,) = served.api.engine.submits

    assert answer.tokens_cached == 7
    assert submit.stopping.max_tokens == 1
    assert submit.private_cache_key == b"k" * 32
    assert "".join(piece.text for piece in submit.text.pieces).endswith("<|im_end|>\n")


async def test_errors_have_a_status_and_a_code(served: GrpcApi) -> None:
    unknown = spindll_pb2.ChatRequest(model="huge", messages=FRANCE)
    empty = spindll_pb2.ChatRequest(model="tiny")
    role = spindll_pb2.ChatRequest(model="tiny", messages=[spindll_pb2.Message(role="boss")])

    assert (await read_status(served.stub.Chat(unknown, **served.user())))[0] is (
        grpc.StatusCode.NOT_FOUND
    )
    assert (await read_status(served.stub.Chat(empty, **served.user())))[0] is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    assert "messages[0].role" in (await read_status(served.stub.Chat(role, **served.user())))[1]

    served.api.engine.scripts["*"] = [failed(EngineBusy("full"))]
    call = served.stub.Chat(spindll_pb2.ChatRequest(model="tiny", messages=FRANCE), **served.user())
    assert await read_status(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    assert ("spindll-error-code", "engine_busy") in list(await call.trailing_metadata())


async def test_a_long_error_message_is_cut_and_leaves_the_connection_alone(
    served: GrpcApi,
) -> None:
    served.api.engine.scripts["*"] = [delta("a"), asyncio.Event()]
    chat = spindll_pb2.ChatRequest(model="tiny", messages=FRANCE)
    running = served.stub.Chat(chat, **served.user())
    assert (await anext(aiter(running))).token == "a"
    wrong = spindll_pb2.Message(role="é" * 20_000)
    call = served.stub.Chat(
        spindll_pb2.ChatRequest(model="tiny", messages=[wrong]), **served.user()
    )
    status, details = await read_status(call)

    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("messages[0].role 'éé")
    assert (len(details), details[-1]) == (500, "…")
    assert not running.done()


async def test_a_message_that_cannot_be_parsed_is_the_fault_of_its_sender(
    served: GrpcApi, caplog: pytest.LogCaptureFixture
) -> None:
    port = served.api.app.state.settings.grpc_port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        chat: Any = channel.unary_stream("/spindll.Spindll/Chat")
        status, _ = await read_status(chat(b"\xff\xff", **served.user()))

    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "unexpected error" not in caplog.messages


async def test_an_unexpected_error_is_reported_without_its_message(
    served: GrpcApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("at /secret/path")

    monkeypatch.setattr(served.api.app.state.parts.catalog, "list", broken)
    call = served.stub.List(spindll_pb2.ListRequest(), **served.user())

    assert await read_status(call) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_a_client_that_disconnects_cancels_its_request_in_the_engine(served: GrpcApi) -> None:
    served.api.engine.scripts["*"] = [delta("Par"), asyncio.Event()]
    call = served.stub.Chat(spindll_pb2.ChatRequest(model="tiny", messages=FRANCE), **served.user())
    first = await call.read()
    call.cancel()

    assert isinstance(first, spindll_pb2.ChatResponse)
    await served.api.engine.wait_until(lambda: served.api.engine.cancels)


async def test_list_and_status_report_models_and_memory(served: GrpcApi) -> None:
    listed = await served.stub.List(spindll_pb2.ListRequest(), **served.user())
    status = await served.stub.Status(spindll_pb2.StatusRequest(), **served.user())

    assert [(m.name, m.format, m.context_length) for m in listed.models] == [
        ("tiny:latest", "gguf", 256)
    ]
    assert listed.prefer_format == "gguf"  # MLX is not installed, or this is no Mac
    assert status.models[0].memory_used == 2**33
    assert (status.memory.total_ram, status.memory.used_ram) == (10, 6)


async def test_loading_needs_the_admin_key_and_zero_layers_mean_automatic(served: GrpcApi) -> None:
    request = spindll_pb2.LoadRequest(model="tiny", priority=spindll_pb2.PRIORITY_HIGH)

    code, _ = await read_status(served.stub.Load(request, **served.user()))
    loaded = await served.stub.Load(request, **served.admin())
    unloaded = await served.stub.Unload(spindll_pb2.UnloadRequest(model="tiny"), **served.admin())

    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert loaded.success
    assert unloaded.success
    sent = served.api.engine.calls[0]
    assert sent.settings.priority == 1
    assert not sent.settings.HasField("gpu_layers")


async def test_calls_that_are_not_served_yet_are_unimplemented(served: GrpcApi) -> None:
    calls = [
        served.stub.Delete(spindll_pb2.DeleteRequest(), **served.admin()),
        served.stub.Pull(spindll_pb2.PullRequest(), **served.admin()),
    ]
    for call in calls:
        code, details = await read_status(call)
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "HTTP API" in details


async def test_two_workers_share_one_port(
    served: GrpcApi, tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    port = served.api.app.state.settings.grpc_port
    put_model(
        tmp_path / "two" / "data" / "models",
        make_manifest("tiny:latest", description=make_description()),
    )
    async with running_api(tmp_path / "two", redis_url, engine, grpc_port=port) as second:
        assert second.app.state.settings.grpc_port == port


def test_every_error_has_a_grpc_status() -> None:
    assert all(any(base in GRPC_STATUS for base in cls.__mro__) for cls in every_error())


async def test_a_call_is_logged_with_its_status_and_the_clients_request_id(
    served: GrpcApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    metadata = (("x-api-key", served.api.user_key), ("x-request-id", "mine-1"))
    call = served.stub.Chat(
        spindll_pb2.ChatRequest(model="tiny", messages=FRANCE), metadata=metadata, timeout=20
    )
    _ = [message async for message in call]
    refused = served.stub.List(spindll_pb2.ListRequest(), timeout=20)
    await read_status(refused)
    await read_status(served.stub.Delete(spindll_pb2.DeleteRequest(), **served.admin()))

    assert ("x-request-id", "mine-1") in list(await call.trailing_metadata())
    assert any(name == "x-request-id" for name, _ in await refused.trailing_metadata())
    lines = [vars(record) for record in caplog.records if record.message == "request"]
    assert [(line["levelname"], line["route"], line["status"]) for line in lines] == [
        ("INFO", "Chat", "OK"),
        ("DEBUG", "List", "UNAUTHENTICATED"),  # a stranger must not fill the log
        ("INFO", "Delete", "UNIMPLEMENTED"),
    ]
    assert {(line["method"], line["client"]) for line in lines} == {("gRPC", "127.0.0.1")}
    assert lines[0]["principal"].startswith("key_")
    assert lines[1]["principal"] == "-"


async def test_the_time_limit_of_the_service_holds_for_grpc(
    tmp_path: Path, redis_url: str, served: GrpcApi
) -> None:
    port = free_port()
    async with (
        running_api(
            tmp_path,
            redis_url,
            served.api.engine,
            grpc_port=port,
            drain_seconds=0.1,
            request_timeout_seconds=9,
        ),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub: SpindllAsyncStub = SpindllStub(channel)
        request = spindll_pb2.GenerateRequest(model="tiny", prompt="a")
        _ = [a async for a in stub.Generate(request, **served.user())]

    assert 0 < served.api.engine.submits[-1].deadline_seconds <= 9


async def test_a_load_that_sets_nothing_leaves_the_models_own_settings(served: GrpcApi) -> None:
    await served.stub.Load(spindll_pb2.LoadRequest(model="tiny"), **served.admin())
    reload = spindll_pb2.LoadRequest(model="tiny", idle_reload_secs=5)
    code, details = await read_status(served.stub.Load(reload, **served.admin()))

    assert not served.api.engine.calls[0].settings.ListFields()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "idle_reload_secs" in details
