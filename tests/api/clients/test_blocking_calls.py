"""Blocking calls of one kind do not hold up those of another, and do not pile up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.api.clients.blocking_calls import BlockingCalls
from services.shared.errors import Unavailable


async def test_calls_beyond_the_limit_fail_at_once() -> None:
    gate = threading.Event()
    calls = BlockingCalls("slow", threads=1, max_calls=2)
    first, second = (asyncio.create_task(calls.run(gate.wait)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await calls.run(gate.wait)
    gate.set()

    assert await first
    assert await second
    assert await calls.run(lambda: 7) == 7


async def test_a_call_whose_client_has_left_still_counts() -> None:
    gate = threading.Event()
    calls = BlockingCalls("slow", threads=1, max_calls=1)
    task = asyncio.create_task(calls.run(gate.wait))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(Unavailable):
        await calls.run(gate.wait)
    gate.set()


async def test_a_call_that_waits_ends_with_its_caller() -> None:
    gate, ran = threading.Event(), threading.Event()
    calls = BlockingCalls("slow", threads=1, max_calls=2)
    running = asyncio.create_task(calls.run(gate.wait))
    waiting = asyncio.create_task(calls.run(ran.set))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0)
    last = asyncio.create_task(calls.run(lambda: 7))  # it has the place of the one that left
    await asyncio.sleep(0)
    gate.set()

    assert await last == 7
    assert await running
    assert not ran.is_set()


async def test_one_kind_that_hangs_does_not_hold_up_another() -> None:
    gate = threading.Event()
    slow = BlockingCalls("slow", threads=1, max_calls=100)
    tasks = [asyncio.create_task(slow.run(gate.wait)) for _ in range(100)]

    assert await BlockingCalls("quick", threads=1, max_calls=1).run(lambda: 7) == 7
    gate.set()
    await asyncio.gather(*tasks)
