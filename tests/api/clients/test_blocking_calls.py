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


class Renderer:
    """Calls that wait for a gate, and the order in which they ran."""

    def __init__(self, *, max_calls: int = 100) -> None:
        self.calls = BlockingCalls("render", threads=1, max_calls=max_calls)
        self.gate = threading.Event()
        self.ran: list[str] = []
        self.blocker = self.send("blocker", "blocker", wait=True)

    def send(self, principal: str, name: str, *, wait: bool = False) -> asyncio.Task[None]:
        def render() -> None:
            if wait:
                self.gate.wait()
            self.ran.append(name)

        return asyncio.create_task(self.calls.run(render, principal=principal))


async def test_principals_take_turns() -> None:
    renderer = Renderer()
    tasks = [renderer.send("alice", f"a{number}") for number in range(50)]
    tasks += [renderer.send("bob", f"b{number}") for number in range(2)]
    await asyncio.sleep(0)
    renderer.gate.set()
    await asyncio.gather(renderer.blocker, *tasks)

    assert renderer.ran[:6] == ["blocker", "a0", "b0", "a1", "b1", "a2"]
    assert len(renderer.ran) == 53


async def test_a_principal_that_takes_all_places_gives_one_to_another() -> None:
    renderer = Renderer(max_calls=4)
    alice = [renderer.send("alice", f"a{number}") for number in range(3)]
    bob = renderer.send("bob", "b0")
    await asyncio.sleep(0)
    late = renderer.send("alice", "a3")
    await asyncio.sleep(0)
    renderer.gate.set()
    ends = await asyncio.gather(*alice, bob, late, return_exceptions=True)

    assert renderer.ran == ["blocker", "a0", "b0", "a1"]
    assert [isinstance(end, Unavailable) for end in ends] == [False, False, True, False, True]


async def test_a_caller_that_has_just_left_gives_its_place_to_another() -> None:
    renderer = Renderer(max_calls=4)
    alice = [renderer.send("alice", f"a{number}") for number in range(3)]
    await asyncio.sleep(0)
    alice[-1].cancel()
    bob = renderer.calls.run(lambda: 7, principal="bob")
    waiting = bob.send(None)  # now, before the cancelled task runs
    renderer.gate.set()
    await asyncio.gather(renderer.blocker, *alice, return_exceptions=True)
    bob.close()

    assert waiting is not None
    assert renderer.ran == ["blocker", "a0", "a1"]


async def test_a_client_that_leaves_while_its_render_waits_is_removed() -> None:
    renderer = Renderer()
    leaving = [renderer.send("alice", f"a{number}") for number in range(3)]
    staying = renderer.send("bob", "b0")
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    renderer.gate.set()
    await asyncio.gather(renderer.blocker, staying)

    assert renderer.ran == ["blocker", "b0"]


async def test_the_error_of_a_call_reaches_its_caller_and_frees_its_thread() -> None:
    calls = BlockingCalls("slow", threads=1, max_calls=1)
    with pytest.raises(ZeroDivisionError):
        await calls.run(lambda: 1 / 0)

    assert await calls.run(lambda: 7) == 7
