"""Tokens a second, and a CPU-second, with 1 to 16 clients that want different things."""

from __future__ import annotations

import asyncio

from bench.load import closed_loop, summarise
from bench.meter import Meter, resident_bytes
from bench.peers import LLAMA_CPP_PYTHON, LLAMA_SERVER, XLLAMACPP
from bench.prompts import distinct
from bench.results import Results
from bench.scenarios.plan import Plan, check, counters, interleaved, warm_up
from bench.servers import OURS, Running, running

NAME = "throughput"
# Clients, and requests of each: enough that what the last answers lack in company hardly counts.
REQUESTS = {1: 8, 4: 4, 8: 4, 16: 3}
_ALL_CLIENTS = 8  # where the peers that are slower by far are measured too


def run(plan: Plan, results: Results) -> None:
    """All servers side by side, idle but for the one that is measured."""
    shape = plan.shape()
    names = (OURS, LLAMA_SERVER, LLAMA_CPP_PYTHON, XLLAMACPP)
    with running(names, shape, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        for number in range(plan.rounds):
            for clients in plan.clients or REQUESTS:
                for server in interleaved(servers, number):
                    if clients != _ALL_CLIENTS and server.name not in (OURS, LLAMA_SERVER):
                        continue
                    _measure(plan, results, server, clients, number)
        for server in servers:
            mib = resident_bytes(server.pid) / 2**20
            results.put(NAME, "after all", server.name, 0, resident_mib=mib)
            if server.name == OURS:
                drafted = counters(server)["draft_accepted"]
                results.put(NAME, "after all", OURS, 0, drafts_accepted=drafted)


def _measure(plan: Plan, results: Results, server: Running, clients: int, number: int) -> None:
    tokens, each = (16, 1) if plan.is_quick else (plan.answer_tokens, REQUESTS[clients])
    asks = distinct(
        clients * each, words=24, max_tokens=tokens, seed=1000 * number + 10 * clients + 1
    )
    with Meter(server.pid) as meter:
        answers = asyncio.run(closed_loop(server.target, asks, clients=clients))
    check(answers, server)
    summary = summarise(answers)
    results.put(
        NAME,
        f"{clients} clients",
        server.name,
        number,
        tokens_per_second=summary.tokens_per_second,
        tokens_per_cpu_second=summary.completion_tokens / meter.usage.all_cpu_seconds,
        first_token_p50_ms=_ms(summary.first_token_p50),
        gap_p50_ms=_ms(summary.gap_p50),
        gap_p95_ms=_ms(summary.gap_p95),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
