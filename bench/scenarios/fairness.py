"""One short request of one client behind fifty of another."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics

from bench.load import Target, ask_one, closed_loop
from bench.peers import LLAMA_SERVER
from bench.prompts import Ask, distinct, text
from bench.results import Results
from bench.scenarios.plan import Plan, interleaved, warm_up
from bench.servers import OURS, Running, running

NAME = "fairness"
CROWD = 50
_SETTLE_SECONDS = 0.5  # until all of the crowd is queued


def run(plan: Plan, results: Results) -> None:
    """Time to the end of the one answer, alone and behind the crowd."""
    shape = plan.shape(sequences=4)
    with running((OURS, LLAMA_SERVER), shape, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        for number in range(plan.rounds):
            for server in interleaved(servers, number):
                _measure(results, server, number)


def _measure(results: Results, server: Running, number: int) -> None:
    # Ours tells clients apart by their keys; a server without keys sees one client.
    single = dataclasses.replace(server.target, address=server.admin or server.target.address)
    alone = asyncio.run(_alone(single, number))
    behind = asyncio.run(_behind(server.target, single, number))
    results.put(
        NAME,
        f"1 behind {CROWD}",
        server.name,
        number,
        behind_over_alone_times=behind / alone,
        alone_ms=1000 * alone,
        behind_ms=1000 * behind,
    )


def _single(number: int) -> Ask:
    return Ask(prompt=text(12, 5000 + number), max_tokens=8)


async def _alone(target: Target, number: int) -> float:
    answers = [await ask_one(target, _single(10 * number + turn)) for turn in range(5)]
    return statistics.median(a.total_seconds for a in answers if a.total_seconds is not None)


async def _behind(crowd_target: Target, target: Target, number: int) -> float:
    crowd = distinct(CROWD, words=24, max_tokens=32, seed=900 + number)
    async with asyncio.TaskGroup() as group:
        running_crowd = group.create_task(closed_loop(crowd_target, crowd, clients=CROWD))
        await asyncio.sleep(_SETTLE_SECONDS)
        answer = await ask_one(target, _single(10 * number + 9))
        running_crowd.cancel()
    if answer.total_seconds is None or not answer.is_good:
        raise RuntimeError(answer.problem or "no answer")
    return answer.total_seconds
