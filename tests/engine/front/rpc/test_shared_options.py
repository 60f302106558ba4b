"""Several prompts in one submit: each is a request of its own."""

from __future__ import annotations

from pathlib import Path

import psutil

from protos import engine_pb2 as pb
from services.engine.front.rpc.from_proto import split_prompts
from tests.engine.engine_server import add_scripted_model, running_front


def make_text(text: str) -> pb.PromptText:
    return pb.PromptText(pieces=[pb.TextPiece(text=text)])


def test_each_prompt_has_the_options_of_the_submit() -> None:
    submit = pb.Submit(
        request_id=1,
        model="m",
        text=make_text("a"),
        constraint=pb.Constraint(regex="x"),
        n=2,
        further_prompts=[
            pb.FurtherPrompt(request_id=2, text=make_text("b")),
            pb.FurtherPrompt(request_id=3, tokens=pb.PromptTokens(ids=[4])),
            pb.FurtherPrompt(request_id=4, infill=pb.PromptInfill(prefix="c", suffix="d")),
        ],
    )
    first, second, third, fourth = split_prompts(submit)

    for found in (first, second, third, fourth):
        assert (found.model, found.n, found.constraint.regex) == ("m", 2, "x")
        assert not found.further_prompts
    assert (first.request_id, first.text) == (1, make_text("a"))
    assert (second.request_id, second.text) == (2, make_text("b"))
    assert (third.request_id, list(third.tokens.ids)) == (3, [4])
    assert third.WhichOneof("prompt") == "tokens"
    assert fourth.infill == pb.PromptInfill(prefix="c", suffix="d")
    assert fourth.WhichOneof("prompt") == "infill"


def test_a_long_prompt_is_not_copied_for_each_of_the_others() -> None:
    """63 short prompts beside one of 8 MiB took half a gigabyte of the front."""
    submit = pb.Submit(request_id=1, text=make_text("x" * (8 << 20)))
    submit.further_prompts.extend(
        pb.FurtherPrompt(request_id=number, text=make_text("y")) for number in range(2, 65)
    )
    before = psutil.Process().memory_info().rss
    submits = split_prompts(submit)

    assert len(submits) == 64
    assert psutil.Process().memory_info().rss - before < 64 << 20


async def test_each_prompt_is_answered_and_cancelled_alone(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path) as front:
        client = front.client()
        first, second = await client.submit_together("words", "one", "two three")

        assert (await client.answer(first))[0] == "one "
        assert (await client.answer(second))[0] == "two three "
