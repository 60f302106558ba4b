"""What our stack costs a token when the model costs nothing: a backend that answers at once."""

from __future__ import annotations

import asyncio

from bench.load import closed_loop, summarise
from bench.meter import Meter
from bench.prompts import distinct
from bench.results import Results
from bench.scenarios.plan import Plan, check, warm_up
from bench.servers import OURS, Running, running

NAME = "wire"
STREAMS = (16, 64)


def run(plan: Plan, results: Results) -> None:
    """CPU microseconds a token, by process."""
    shape = plan.shape(
        context_tokens=1 << 17,
        sequences=max(STREAMS),
        settings={"SPINDLL_ENGINE_BACKEND": "fake"},
    )
    with running((OURS,), shape, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
            for number in range(plan.rounds):
                for streams in STREAMS:
                    _measure(plan, results, server, streams, number)


def _measure(plan: Plan, results: Results, server: Running, streams: int, number: int) -> None:
    tokens = 100 if plan.is_quick else 1000
    asks = distinct(streams, words=6, max_tokens=tokens, seed=number + 1)
    with Meter(server.pid) as meter:
        answers = asyncio.run(closed_loop(server.target, asks, clients=streams))
    check(answers, server)
    summary = summarise(answers)
    each = 1e6 / summary.completion_tokens
    by_role = {
        f"{role}_us_per_token": cpu * each
        for role, cpu in sorted(meter.usage.cpu_seconds.items())
        if cpu > 0
    }
    events = sum(len(answer.events) for answer in answers)
    results.put(
        NAME,
        f"{streams} streams",
        server.name,
        number,
        cpu_us_per_token=meter.usage.all_cpu_seconds * each,
        tokens_per_second=summary.tokens_per_second,
        tokens_per_event=summary.completion_tokens / events,
        **by_role,
    )
