"""How long one short request of one client waits behind fifty requests of another client."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics

from bench.load import Target, run_closed_loop, send_request
from bench.prompts import LoadRequest, build_distinct, build_text
from bench.results import Results
from bench.scenarios.plan import Plan, rotate, warm_up
from bench.servers.peers import LLAMA_SERVER
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "fairness"
CROWD = 50
_SETTLE_SECONDS = 0.5  # until the whole crowd is queued


def run(plan: Plan, results: Results) -> None:
    """Measure the total time of the single request, alone and behind the crowd."""
    options = plan.server_options(sequences=4)
    with start_servers((SPINDLL, LLAMA_SERVER), options, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        for round_number in range(plan.rounds):
            for server in rotate(servers, round_number):
                _measure(results, server, round_number)


def _measure(results: Results, server: RunningServer, round_number: int) -> None:
    # Spindll distinguishes clients by their keys; a server without keys sees one client.
    address = server.admin_address or server.target.address
    single = dataclasses.replace(server.target, address=address)
    alone = asyncio.run(_time_alone(single, round_number))
    behind = asyncio.run(_time_behind_crowd(server.target, single, round_number))
    results.add(
        NAME,
        f"1 behind {CROWD}",
        server.name,
        round_number,
        behind_over_alone_times=behind / alone,
        alone_ms=1000 * alone,
        behind_ms=1000 * behind,
    )


def _build_single(seed: int) -> LoadRequest:
    return LoadRequest(prompt=build_text(12, 5000 + seed), max_tokens=8)


async def _time_alone(target: Target, round_number: int) -> float:
    requests = [_build_single(10 * round_number + index) for index in range(5)]
    answers = [await send_request(target, request) for request in requests]
    return statistics.median(a.total_seconds for a in answers if a.total_seconds is not None)


async def _time_behind_crowd(crowd_target: Target, target: Target, round_number: int) -> float:
    crowd = build_distinct(CROWD, words=24, max_tokens=32, seed=900 + round_number)
    async with asyncio.TaskGroup() as group:
        crowd_task = group.create_task(run_closed_loop(crowd_target, crowd, clients=CROWD))
        await asyncio.sleep(_SETTLE_SECONDS)
        answer = await send_request(target, _build_single(10 * round_number + 9))
        crowd_task.cancel()
    if answer.total_seconds is None or not answer.has_succeeded:
        raise RuntimeError(answer.error or "no answer")
    return answer.total_seconds
