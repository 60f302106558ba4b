from __future__ import annotations

import asyncio

from services.engine.core import FinishReason, TokenLogprob
from services.engine.front.rpc.event_queue import EventQueue, MergedDelta, QueueItem
from services.engine.messages import reports


def delta(text: str, index: int = 0) -> reports.Delta:
    return reports.Delta(0, index, text, 1, (TokenLogprob(1, text.encode(), -0.5),))


def texts(items: list[QueueItem]) -> list[tuple[int, str, int]]:
    return [
        (request_id, "".join(item.pieces), item.tokens)
        for request_id, item in items
        if isinstance(item, MergedDelta)
    ]


async def test_deltas_of_one_answer_merge_until_they_are_taken() -> None:
    event_queue = EventQueue()
    for text in "abc":
        event_queue.put_delta(1, delta(text))
        event_queue.put_delta(2, delta(text.upper()))
    first = await event_queue.take()
    event_queue.put_delta(1, delta("d"))
    second = await event_queue.take()

    assert texts(first) == [(1, "abc", 3), (2, "ABC", 3)]
    assert texts(second) == [(1, "d", 1)]
    merged = first[0][1]
    assert isinstance(merged, MergedDelta)
    assert [entry.text for entry in merged.logprobs] == [b"a", b"b", b"c"]


async def test_answers_of_one_request_do_not_mix() -> None:
    event_queue = EventQueue()
    event_queue.put_delta(1, delta("a", index=0))
    event_queue.put_delta(1, delta("b", index=1))
    event_queue.put_delta(1, delta("c", index=0))

    assert texts(await event_queue.take()) == [(1, "ac", 2), (1, "b", 1)]


async def test_the_events_of_a_request_stay_in_order() -> None:
    event_queue = EventQueue()
    event_queue.put(1, reports.Started(0, 5, 0))
    event_queue.put_delta(1, delta("a"))
    event_queue.put(1, reports.Failed(0, {"code": "x"}))
    kinds = [type(item).__name__ for _, item in await event_queue.take()]

    assert kinds == ["Started", "MergedDelta", "Failed"]


async def test_take_waits_and_a_closed_queue_is_emptied_first() -> None:
    event_queue = EventQueue()
    waiting = asyncio.create_task(event_queue.take())
    await asyncio.sleep(0)
    event_queue.put_delta(1, delta("late"))
    assert texts(await waiting) == [(1, "late", 1)]

    event_queue.put_delta(1, delta("last"))
    event_queue.close()
    event_queue.put_delta(1, delta("dropped"))
    assert texts(await event_queue.take()) == [(1, "last", 1)]
    assert await event_queue.take() == []


async def test_too_many_events_for_one_message_are_taken_in_parts_without_loss() -> None:
    event_queue = EventQueue()
    for number in range(3):
        for _ in range(15_000):
            event_queue.put_delta(number, delta("x"))
    parts = [await event_queue.take(), await event_queue.take()]
    event_queue.close()

    assert await event_queue.take() == []
    assert [texts(part) for part in parts] == [
        [(0, "x" * 15_000, 15_000), (1, "x" * 15_000, 15_000)],
        [(2, "x" * 15_000, 15_000)],
    ]


async def test_the_log_probabilities_of_prompts_count_for_the_size_of_a_message() -> None:
    event_queue = EventQueue()
    logprobs = (TokenLogprob(1, b"x", -0.5),) * 15_000
    for number in range(3):
        event_queue.put(number, build_finished(logprobs))
    parts = [await event_queue.take(), await event_queue.take()]
    event_queue.close()

    assert [[number for number, _ in part] for part in parts] == [[0, 1], [2]]
    assert await event_queue.take() == []


def build_finished(prompt_logprobs: tuple[TokenLogprob, ...]) -> reports.Finished:
    return reports.Finished(
        0, 0, FinishReason.STOP, 1, 0, 1, 0.0, 0.0, 0.0, prompt_logprobs=prompt_logprobs
    )
