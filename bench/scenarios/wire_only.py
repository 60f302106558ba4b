"""What the stack costs per token without a model: the fake backend answers at once."""

from __future__ import annotations

import asyncio

from bench.load import run_closed_loop, summarise
from bench.meter import Meter
from bench.prompts import build_distinct
from bench.results import Results
from bench.scenarios.plan import Plan, raise_on_error, warm_up
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "wire"
STREAMS = (16, 64)


def run(plan: Plan, results: Results) -> None:
    """Measure CPU microseconds per token, by process."""
    options = plan.server_options(
        context_tokens=1 << 17,
        sequences=max(STREAMS),
        settings={"SPINDLL_ENGINE_BACKEND": "fake"},
    )
    with start_servers((SPINDLL,), options, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
            for round_number in range(plan.rounds):
                for streams in STREAMS:
                    _measure(plan, results, server, streams, round_number)


def _measure(
    plan: Plan, results: Results, server: RunningServer, streams: int, round_number: int
) -> None:
    tokens = 100 if plan.is_quick else 1000
    requests = build_distinct(streams, words=6, max_tokens=tokens, seed=round_number + 1)
    with Meter(server.pid) as meter:
        answers = asyncio.run(run_closed_loop(server.target, requests, clients=streams))
    raise_on_error(answers, server)
    summary = summarise(answers)
    factor = 1e6 / summary.completion_tokens
    by_role = {
        f"{role}_us_per_token": cpu * factor
        for role, cpu in sorted(meter.usage.cpu_seconds.items())
        if cpu > 0
    }
    events = sum(len(answer.arrival_times) for answer in answers)
    results.add(
        NAME,
        f"{streams} streams",
        server.name,
        round_number,
        cpu_us_per_token=meter.usage.total_cpu_seconds * factor,
        tokens_per_second=summary.tokens_per_second,
        tokens_per_event=summary.completion_tokens / events,
        **by_role,
    )
