"""The whole engine with a real model: gRPC, front, runner, llama.cpp, the tiny trained model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protos import engine_pb2 as pb
from services.engine.front.process.launcher import RUNNER_COMMAND
from tests.conftest import TINY_GGUF
from tests.engine.engine_server import RunningFront, add_model, running_front

GREEDY = pb.Sampling(temperature=0)
QUESTIONS = {
    "What is the capital of France?": "Paris.",
    "What is the capital of Germany?": "Berlin.",
    "What is the capital of Italy?": "Rome.",
    "What is the capital of Japan?": "Tokyo.",
}
SETTINGS: dict[str, Any] = {"context_length": 2048, "threads": 1, "max_sequences": 8}


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    add_model(tmp_path, "tiny", TINY_GGUF.read_bytes())
    return tmp_path


async def ask(front: RunningFront, question: str, model: str = "tiny") -> str:
    text, last = await front.client().ask(
        model, chat(question), sampling=GREEDY, stopping=pb.Stopping(max_tokens=64)
    )
    assert last.WhichOneof("kind") == "finished", last
    return text.strip()


async def test_the_capital_of_france_is_paris(data: Path) -> None:
    async with running_front(data, runner=RUNNER_COMMAND, **SETTINGS) as front:
        answer = await ask(front, "What is the capital of France?")
        (model,) = (await front.loaded()).models

    assert answer == "Paris."
    assert model.memory_policy == "dense"
    assert model.context_length == 2048
    assert model.memory_bytes > TINY_GGUF.stat().st_size


async def test_four_concurrent_streams_have_the_same_answers_as_alone(data: Path) -> None:
    async with running_front(data, runner=RUNNER_COMMAND, **SETTINGS) as front:
        alone = [await ask(front, question) for question in QUESTIONS]
        together = await asyncio.gather(*(ask(front, question) for question in QUESTIONS))

    assert alone == list(QUESTIONS.values())
    assert together == alone


async def test_a_hybrid_model_continues_where_another_chat_of_the_tenant_parted(
    tmp_path: Path, synthetic_model: Callable[[str], Path]
) -> None:
    add_model(tmp_path, "hybrid", synthetic_model("tiny-hybrid").read_bytes())
    system = f"<|im_start|>system\n{'Answer in one line. ' * 30}<|im_end|>\n<|im_start|>user\n"
    few = pb.Stopping(max_tokens=4, ignore_eos=True)

    async with running_front(tmp_path, runner=RUNNER_COMMAND, **SETTINGS) as front:
        client = front.client()

        async def ask_after_system(question: str, tenant: str) -> tuple[str, pb.Finished]:
            text, last = await client.ask(
                "hybrid",
                system + question,
                cuts=(len(system),),
                tenant=tenant,
                sampling=GREEDY,
                stopping=few,
            )
            assert last.WhichOneof("kind") == "finished", last
            return text, last.finished

        await ask_after_system("What is the capital of France?", "alice")
        alone, other = await ask_after_system("And of Japan?", "bob")
        text, second = await ask_after_system("And of Japan?", "alice")

    assert other.cached_tokens == 0
    assert second.prompt_tokens - 20 < second.cached_tokens < second.prompt_tokens
    assert text == alone


async def test_a_stream_ends_with_an_error_when_its_runner_is_killed(data: Path) -> None:
    async with running_front(data, runner=RUNNER_COMMAND, **SETTINGS) as front:
        client = front.client()
        endless = pb.Stopping(max_tokens=1900, ignore_eos=True)
        request = await client.submit("tiny", chat("Count to 100."), stopping=endless)
        await client.until(request, "delta")
        (model,) = (await front.loaded()).models
        os.kill(model.pid, signal.SIGKILL)
        _, last = await client.answer(request)
        answer = await ask(front, "What is the capital of France?")

    assert last.error.code == "runner_died"
    assert answer == "Paris."


async def test_a_truncated_model_file_fails_with_a_message_without_its_path(tmp_path: Path) -> None:
    add_model(tmp_path, "broken", TINY_GGUF.read_bytes()[:100_000])
    async with running_front(tmp_path, runner=RUNNER_COMMAND, **SETTINGS) as front:
        _, last = await front.client().ask("broken", "hello")

    assert last.error.code == "model_load_failed"
    assert str(tmp_path) not in last.error.message
    assert len(last.error.message.split()) > 3


async def test_the_plan_of_a_model_shows_its_sizes_without_loading_it(data: Path) -> None:
    async with running_front(data, runner=RUNNER_COMMAND, **SETTINGS) as front:
        plan = await front.stub.Plan(pb.PlanRequest(model="tiny"))
        again = await front.stub.Plan(pb.PlanRequest(model="tiny"))
        loaded = await front.loaded()

    assert plan.action == pb.PLAN_ACTION_LOAD
    assert plan.weights_bytes > 1_000_000
    assert plan.kv_bytes > 0
    assert plan.source == "dry run"
    assert plan.explanation.startswith("fits; ")
    assert (again.kv_bytes, again.source) == (plan.kv_bytes, plan.source)
    assert len(loaded.models) == 0


async def test_two_models_that_cannot_both_be_loaded_alternate(tmp_path: Path) -> None:
    content = TINY_GGUF.read_bytes()
    add_model(tmp_path, "first", content)
    add_model(tmp_path, "second", content + b"\0" * 32)  # another digest, the same model
    async with running_front(tmp_path, runner=RUNNER_COMMAND, **SETTINGS) as front:
        sizes = [
            (await front.stub.Load(pb.LoadRequest(model=name))).model.memory_bytes
            for name in ("first", "second")
        ]
    budget = max(sizes) + min(sizes) // 2
    async with running_front(
        tmp_path, runner=RUNNER_COMMAND, memory_budget=str(budget), **SETTINGS
    ) as front:
        requests = [(name, q) for q in QUESTIONS for name in ("first", "second")]
        answers = await asyncio.gather(*(ask(front, question, name) for name, question in requests))
        again = [await ask(front, q, name) for name, q in requests[:4]]
        loads = front.engine.pool.load_count
        loaded = await front.loaded()

    assert answers == [QUESTIONS[question] for _, question in requests]
    assert again == answers[:4]
    # Eight at once: one load for each model. Then alternately, one at a time: one load for each
    # request at most.
    assert loads <= 2 + 4
    assert loaded.used_bytes <= loaded.budget_bytes == budget
    assert len([m for m in loaded.models if m.state == pb.MODEL_STATE_READY]) == 1


async def test_the_smallest_context_with_the_most_sequences_answers(data: Path) -> None:
    settings: dict[str, Any] = {
        "context_length": 1,
        "max_sequences": 256,
        "batch_tokens": 1 << 16,
        "threads": 1,
    }
    async with running_front(data, runner=RUNNER_COMMAND, **settings) as front:
        answers = await asyncio.gather(*(ask(front, question) for question in QUESTIONS))
        (model,) = (await front.loaded()).models
        text, last = await front.client().ask("tiny", chat("word " * 400), sampling=GREEDY)

    assert answers == list(QUESTIONS.values())
    assert (model.context_length, model.max_sequences) == (256, 256)  # as llama.cpp rounds it
    assert (text, last.error.code) == ("", "context_length_exceeded")
