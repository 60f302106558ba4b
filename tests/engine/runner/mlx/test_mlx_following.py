"""Prompts that begin alike are computed once, also when their requests come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.engine.core import FinishReason
from services.engine.runner.mlx.mlx_batcher import MlxBatcher
from tests.contracts.batching import BatchRun
from tests.engine.runner.mlx.mlx_requests import LONG, build

ALIKE = LONG[:600]
Make = Callable[..., BatchRun]


@pytest.fixture
def run(make_run: Make) -> BatchRun:
    return make_run(context_length=1024, kv_mode="split", batch_tokens=32)


@pytest.fixture
def following(run: BatchRun) -> BatchRun:
    """Request 2 waits for request 1, which has read some of its prompt."""
    run.add(build(1, ALIKE + "one"), build(2, ALIKE + "two"))
    run.step()
    run.step()
    assert list_followers(run) == [2]
    assert run.answered[2].started is None
    return run


def get_batcher(run: BatchRun) -> MlxBatcher:
    assert isinstance(run.batcher, MlxBatcher)
    return run.batcher


def list_followers(run: BatchRun) -> list[int]:
    followers = get_batcher(run)._batch._followers.answers
    return [answer.branch.request.id for answer in followers]


def alone(run: BatchRun, text: str) -> dict[int, str]:
    return run.answer(build(99, text, no_cache=True))[0].text


def test_a_follower_computes_only_what_its_leader_does_not(following: BatchRun) -> None:
    following.finish()

    first, second = (following.answered[id_].finished[0] for id_ in (1, 2))
    assert first.cached_tokens == 0
    assert second.cached_tokens >= second.prompt_tokens - 4
    assert following.answered[2].text == alone(following, ALIKE + "two")


def test_a_prompt_continues_another_one_that_still_generates(run: BatchRun) -> None:
    run.add(build(1, ALIKE + "one", 200))
    while not run.answered[1].deltas:
        run.step()

    second = run.answer(build(2, ALIKE + "two"))[0]

    assert second.finished[0].cached_tokens >= second.finished[0].prompt_tokens - 4
    assert second.text == alone(run, ALIKE + "two")


def test_a_follower_goes_on_after_what_a_cancelled_leader_has_read(following: BatchRun) -> None:
    following.cancel(1)
    following.finish()

    assert 32 <= following.answered[2].finished[0].cached_tokens < 100
    assert following.answered[2].text == alone(following, ALIKE + "two")


def test_a_follower_can_be_cancelled(following: BatchRun) -> None:
    following.cancel(2)
    assert following.answered[2].reason is FinishReason.CANCELLED
    following.finish()

    assert following.answered[1].reason is FinishReason.LENGTH


def test_a_follower_can_be_preempted(following: BatchRun) -> None:
    batcher = get_batcher(following)
    branch = batcher._requests[2].branches[0]
    batcher._batch.remove(branch)
    batcher._queue.put_back(branch)
    following.finish()

    assert following.answered[2].text == alone(following, ALIKE + "two")


def test_a_follower_that_cannot_begin_ends_with_an_error(
    following: BatchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(get_batcher(following)._batch, "_insert", lambda *_: 1 // 0)
        following.finish()

    assert following.answered[2].error_code == "internal_error"
    assert following.answer(build(3, ALIKE + "three"))[0].reason is FinishReason.LENGTH


@pytest.mark.parametrize("changes", [{"realm": "bob"}, {"no_cache": True}], ids=["realm", "cache"])
def test_what_may_not_be_shared_is_not_followed(run: BatchRun, changes: dict[str, Any]) -> None:
    run.add(build(1, ALIKE + "one"), build(2, ALIKE + "two", **changes))
    run.step()
    assert list_followers(run) == []
    run.finish()

    assert run.answered[2].finished[0].cached_tokens == 0
