"""Tokens per second and per CPU-second with 1 to 16 clients that send distinct prompts."""

from __future__ import annotations

import asyncio

from bench.load import run_closed_loop, summarise
from bench.meter import Meter, resident_bytes
from bench.prompts import build_distinct, vary_lengths
from bench.results import Results
from bench.scenarios.plan import Plan, raise_on_error, read_counters, rotate, warm_up
from bench.servers.peers import LLAMA_CPP_PYTHON, LLAMA_SERVER, XLLAMACPP
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "throughput"
# Clients, and requests per client: enough requests that the last ones, which run with fewer others,
# hardly change the result.
REQUESTS = {1: 8, 4: 4, 8: 4, 16: 3}
_ALL_SERVERS_CLIENTS = 8  # the client count at which the much slower peers are measured too


def run(plan: Plan, results: Results) -> None:
    """Run all servers side by side; only the measured one is busy."""
    names = (SPINDLL, LLAMA_SERVER, LLAMA_CPP_PYTHON, XLLAMACPP)
    with start_servers(names, plan.server_options(), plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        for round_number in range(plan.rounds):
            for clients in plan.clients or REQUESTS:
                for server in rotate(servers, round_number):
                    is_fast = server.name in (SPINDLL, LLAMA_SERVER)
                    if is_fast or clients == _ALL_SERVERS_CLIENTS:
                        _measure(plan, results, server, clients, round_number)
        for server in servers:
            mib = resident_bytes(server.pid) / 2**20
            results.add(NAME, "after all", server.name, 0, resident_mib=mib)
            if server.name == SPINDLL:
                accepted = read_counters(server)["draft_accepted"]
                results.add(NAME, "after all", SPINDLL, 0, drafts_accepted=accepted)


def _measure(
    plan: Plan, results: Results, server: RunningServer, clients: int, round_number: int
) -> None:
    tokens, count = (16, 1) if plan.is_quick else (plan.answer_tokens, REQUESTS[clients])
    seed = 1000 * round_number + 10 * clients + 1
    requests = build_distinct(
        clients * count, words=plan.prompt_words, max_tokens=tokens, seed=seed
    )
    if plan.varies_answers:
        requests = vary_lengths(requests, seed=seed)
    with Meter(server.pid) as meter:
        answers = asyncio.run(run_closed_loop(server.target, requests, clients=clients))
    raise_on_error(answers, server)
    summary = summarise(answers)
    results.add(
        NAME,
        f"{clients} clients",
        server.name,
        round_number,
        tokens_per_second=summary.tokens_per_second,
        tokens_per_cpu_second=summary.completion_tokens / meter.usage.total_cpu_seconds,
        first_token_p50_ms=_to_ms(summary.first_token_p50),
        gap_p50_ms=_to_ms(summary.gap_p50),
        gap_p95_ms=_to_ms(summary.gap_p95),
        gap_max_ms=_to_ms(summary.gap_max),
    )


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
