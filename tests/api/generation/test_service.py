"""The pipeline, without a dialect: requests in, events and one log line out."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from protos import engine_pb2
from services.api.access.keys import Role
from services.api.access.principal import Principal
from services.api.generation.answers.accumulator import accumulate
from services.api.generation.answers.events import TextDelta
from services.api.generation.generation import Generation
from services.api.generation.requests.generation_request import (
    GenerationRequest,
    OutputFormat,
    StructuredOutput,
)
from services.api.generation.requests.time_limits import limit_keep_alive
from services.api.generation.service import GenerationService
from services.api.prompts.render import Conversation
from services.shared.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    RunnerDied,
)
from services.shared.limits import MAX_SUBMIT_BYTES
from tests.api.conftest import Api, running_api
from tests.fakes.scripted_engine import ScriptedEngine, delta, failed, finished, started

ALICE = Principal(id="key_a", role=Role.USER, name="alice")


def make_request(**changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {"id": "r", "model": "tiny", "principal": ALICE, "prompt": ("hi",)}
    return GenerationRequest(**{**fields, **changes})


def service_of(api: Api) -> GenerationService:
    service = api.app.state.parts.generations
    assert isinstance(service, GenerationService)
    return service


def read_log(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.message == "generation"]


async def test_a_request_becomes_answers_and_one_log_line(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    api.engine.scripts["*"] = [
        *(started(), delta("a", 1), delta("b", 0), delta("c", 1)),
        *(finished(index=0), finished("LENGTH", index=1, tokens=5)),
    ]
    request = make_request(prompt=("one", "two"), answers_per_prompt=2)
    generation = await service_of(api).open(request)
    answers = await accumulate(generation, answer_count=generation.answer_count)
    generation.close()
    generation.close()

    assert [(a.text, a.reason.value) for a in answers] == 2 * [("b", "stop"), ("ac", "length")]
    (line,) = read_log(caplog)
    assert (line["id"], line["model"], line["principal"]) == ("r", "tiny:latest", "key_a")
    assert (line["outcome"], line["prompt_tokens"], line["cached_tokens"]) == ("finished", 14, 6)
    assert line["completion_tokens"] == 14


async def test_an_error_is_raised_and_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    api.engine.scripts["*"] = [delta("a"), failed(RunnerDied("gone"))]
    generation = await service_of(api).open(make_request())
    with pytest.raises(RunnerDied):
        await accumulate(generation, answer_count=1)
    generation.close()

    assert [line["outcome"] for line in read_log(caplog)] == ["runner_died"]


async def test_closing_early_cancels_and_is_logged_as_cancelled(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    api.engine.scripts["*"] = [delta("a"), asyncio.Event()]
    generation = await service_of(api).open(make_request())
    assert await anext(generation) == [TextDelta(0, "a")]
    generation.close()

    await api.engine.wait_until(lambda: api.engine.cancels)
    assert [line["outcome"] for line in read_log(caplog)] == ["cancelled"]


@pytest.mark.parametrize(
    ("service_seconds", "own_seconds", "sent_seconds"),
    [(0, None, None), (2, None, 2), (2, 3, 2), (3, 2, 2), (0, 3, 3)],
)
async def test_the_time_limit_of_the_service_is_an_upper_bound(
    tmp_path: Any,
    redis_url: str,
    api: Api,
    service_seconds: float,
    own_seconds: float | None,
    sent_seconds: float | None,
) -> None:
    async with running_api(
        tmp_path, redis_url, api.engine, request_timeout_seconds=service_seconds
    ) as limited:
        request = make_request(deadline_seconds=own_seconds)
        generation = await service_of(limited).open(request)
        await accumulate(generation, answer_count=1)
        generation.close()

    submit = api.engine.submits[-1]
    assert submit.HasField("deadline_seconds") is (sent_seconds is not None)
    if sent_seconds is not None:  # less the time that the api took
        assert 0 < submit.deadline_seconds <= sent_seconds


async def test_the_time_in_which_a_prompt_is_rendered_counts(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(api.app.state.parts.prompts, "render", lambda *_, **__: gate.wait(60))
    conversation = Conversation(messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(DeadlineExceeded):
        await service_of(api).open(make_request(prompt=conversation, deadline_seconds=0.05))
    gate.set()

    assert not api.engine.submits


async def test_one_key_with_many_slow_renders_does_not_delay_another(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, rendered = threading.Event(), []

    def render(_: Any, conversation: Conversation, **__: Any) -> engine_pb2.PromptText:
        gate.wait(60)
        rendered.append(conversation.messages[0]["content"])
        return engine_pb2.PromptText()

    monkeypatch.setattr(api.app.state.parts.prompts, "render", render)
    bob = Principal(id="key_b", role=Role.USER, name="bob")

    def send(principal: Principal, content: str) -> asyncio.Task[Generation]:
        prompt = Conversation(messages=[{"role": "user", "content": content}])
        request = make_request(prompt=prompt, principal=principal)
        return asyncio.create_task(service_of(api).open(request))

    tasks = [send(ALICE, "alice") for _ in range(20)]
    while service_of(api)._renders.pending < len(tasks):
        await asyncio.sleep(0.005)
    tasks.append(send(bob, "bob"))
    while service_of(api)._renders.pending < len(tasks):
        await asyncio.sleep(0.005)
    gate.set()
    for generation in await asyncio.gather(*tasks):
        generation.close()

    # Two run already, and each of two threads may start one more before it is his turn.
    assert rendered.index("bob") <= 4


async def test_models_are_asked_once_whether_they_use_cuts(api: Api) -> None:
    """Cuts cost a second render of the conversation, which most models have no use for."""
    chat = Conversation(messages=[{"role": "user", "content": "why? " * 100}])
    sent = []
    for uses_cuts in (False, False, True, True):
        api.engine.scripts["*"] = [started(uses_cuts=uses_cuts), delta("a"), finished()]
        generation = await service_of(api).open(make_request(prompt=chat))
        await accumulate(generation, answer_count=1)
        generation.close()
        sent.append(bool(api.engine.submits[-1].text.cuts))

    assert sent == [True, False, False, True]


async def test_a_request_without_cache_has_no_cuts(api: Api) -> None:
    chat = Conversation(messages=[{"role": "user", "content": "why? " * 100}])
    generation = await service_of(api).open(make_request(prompt=chat, use_cache=False))
    await accumulate(generation, answer_count=1)
    generation.close()

    assert not api.engine.submits[-1].text.cuts


@pytest.mark.parametrize(
    ("is_shared", "own_tenant", "sent"),
    [(False, "", "key_a"), (False, "team", "team"), (True, "", "all"), (True, "team", "all")],
)
async def test_a_tenant_is_one_key_unless_keys_share(
    tmp_path: Any,
    redis_url: str,
    engine: ScriptedEngine,
    api: Api,
    is_shared: bool,
    own_tenant: str,
    sent: str,
) -> None:
    principal = Principal(id="key_a", role=Role.USER, name="a", tenant=own_tenant)
    async with running_api(tmp_path, redis_url, engine, shared_tenant=is_shared) as running:
        generation = await service_of(running).open(make_request(principal=principal))
        await accumulate(generation, answer_count=1)
        generation.close()

    assert (engine.submits[-1].principal, engine.submits[-1].tenant) == ("key_a", sent)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ("x" * MAX_SUBMIT_BYTES, "x")}, "prompt"),
        (
            {"prompt": Conversation(messages=[{"role": "user", "content": "x" * 9_000_000}])},
            "messages",
        ),
        (
            {"structured_output": StructuredOutput(OutputFormat.REGEX, "x" * 300_000)},
            "regex",
        ),
    ],
    ids=["prompts", "conversation", "regex"],
)
async def test_what_the_engine_would_refuse_is_refused_before_it_is_rendered(
    api: Api, changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await service_of(api).open(make_request(**changes))

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "field"),
    [(("hi",), "prompt"), (Conversation(messages=[{"role": "user", "content": "hi"}]), "messages")],
    ids=["text", "conversation"],
)
async def test_an_overflow_names_the_field_of_the_prompt(api: Api, prompt: Any, field: str) -> None:
    api.engine.scripts["*"] = [failed(ContextLengthExceeded("too long"))]
    generation = await service_of(api).open(make_request(prompt=prompt))
    with pytest.raises(ContextLengthExceeded) as caught:
        await accumulate(generation, answer_count=1)
    generation.close()

    assert caught.value.param == field


@pytest.mark.parametrize(
    ("role", "given", "sent"),
    [(Role.USER, None, None), (Role.USER, 60, 60), (Role.USER, -1, 3600), (Role.USER, 1e9, 3600)]
    + [(Role.ADMIN, -1, -1), (Role.ADMIN, 1e9, 1e9), (Role.ADMIN, 0, 0)],
)
def test_a_user_keeps_a_model_for_an_hour_at_most(
    role: Role, given: float | None, sent: float | None
) -> None:
    assert limit_keep_alive(given, role) == sent


@pytest.mark.parametrize(("role", "extends"), [(Role.USER, True), (Role.ADMIN, False)])
async def test_a_user_does_not_unload_a_model_that_others_use(
    api: Api, role: Role, extends: bool
) -> None:
    principal = Principal(id="key", role=role, name="name")
    generation = await service_of(api).open(make_request(principal=principal, keep_alive_seconds=0))
    await accumulate(generation, answer_count=1)
    generation.close()

    assert api.engine.submits[0].keep_alive_seconds == 0
    assert api.engine.submits[0].keep_alive_only_extends is extends
