from __future__ import annotations

import asyncio

from services.engine import messages
from services.engine.core import TokenLogprob
from services.engine.front.rpc.event_queue import Item, Mailbox, MergedDelta


def delta(text: str, index: int = 0) -> messages.Delta:
    return messages.Delta(0, index, text, 1, (TokenLogprob(1, text.encode(), -0.5),))


def texts(items: list[Item]) -> list[tuple[int, str, int]]:
    return [
        (request_id, "".join(item.pieces), item.tokens)
        for request_id, item in items
        if isinstance(item, MergedDelta)
    ]


async def test_deltas_of_one_answer_merge_until_they_are_taken() -> None:
    mailbox = Mailbox()
    for text in "abc":
        mailbox.put_delta(1, delta(text))
        mailbox.put_delta(2, delta(text.upper()))
    first = await mailbox.take()
    mailbox.put_delta(1, delta("d"))
    second = await mailbox.take()

    assert texts(first) == [(1, "abc", 3), (2, "ABC", 3)]
    assert texts(second) == [(1, "d", 1)]
    merged = first[0][1]
    assert isinstance(merged, MergedDelta)
    assert [entry.text for entry in merged.logprobs] == [b"a", b"b", b"c"]


async def test_answers_of_one_request_do_not_mix() -> None:
    mailbox = Mailbox()
    mailbox.put_delta(1, delta("a", index=0))
    mailbox.put_delta(1, delta("b", index=1))
    mailbox.put_delta(1, delta("c", index=0))

    assert texts(await mailbox.take()) == [(1, "ac", 2), (1, "b", 1)]


async def test_a_request_s_events_stay_in_order() -> None:
    mailbox = Mailbox()
    mailbox.put(1, messages.Started(0, 5, 0))
    mailbox.put_delta(1, delta("a"))
    mailbox.put(1, messages.Failed(0, {"code": "x"}))
    kinds = [type(item).__name__ for _, item in await mailbox.take()]

    assert kinds == ["Started", "MergedDelta", "Failed"]


async def test_take_waits_and_a_closed_mailbox_is_emptied_first() -> None:
    mailbox = Mailbox()
    waiting = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put_delta(1, delta("late"))
    assert texts(await waiting) == [(1, "late", 1)]

    mailbox.put_delta(1, delta("last"))
    mailbox.close()
    mailbox.put_delta(1, delta("unheard"))
    assert texts(await mailbox.take()) == [(1, "last", 1)]
    assert await mailbox.take() == []


async def test_what_is_too_much_for_one_message_is_taken_in_parts_and_nothing_is_lost() -> None:
    mailbox = Mailbox()
    for number in range(3):
        for _ in range(15_000):
            mailbox.put_delta(number, delta("x"))
    parts = [await mailbox.take(), await mailbox.take()]
    mailbox.close()

    assert await mailbox.take() == []
    assert [texts(part) for part in parts] == [
        [(0, "x" * 15_000, 15_000), (1, "x" * 15_000, 15_000)],
        [(2, "x" * 15_000, 15_000)],
    ]
