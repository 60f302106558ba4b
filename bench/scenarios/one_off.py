"""What cached prompts that are never repeated cost later requests: cache allowed over forbidden."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from bench.load import run_closed_loop, summarise
from bench.prompts import build_distinct
from bench.results import Results
from bench.scenarios.plan import Plan, raise_on_error, warm_up
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "one-off"
CLIENTS = 16
_REQUESTS = 48  # in each of the two waves; the first one leaves idle sequences behind


def run(plan: Plan, results: Results) -> None:
    """Send two waves of distinct prompts to a new server and measure the second one."""
    options = plan.server_options()
    for round_number in range(plan.rounds):
        for may_cache in (True, False):
            with start_servers((SPINDLL,), options, plan.peers, plan.workdir) as servers:
                for server in servers:
                    warm_up(server)
                    _measure(plan, results, server, round_number, may_cache=may_cache)


def _measure(
    plan: Plan, results: Results, server: RunningServer, round_number: int, *, may_cache: bool
) -> None:
    count, tokens = (CLIENTS, 8) if plan.is_quick else (_REQUESTS, 64)
    for wave in range(2):
        seed = 7000 + 2 * round_number + wave
        requests = build_distinct(count, words=24, max_tokens=tokens, seed=seed)
        requests = [replace(request, may_cache=may_cache) for request in requests]
        answers = asyncio.run(run_closed_loop(server.target, requests, clients=CLIENTS))
        raise_on_error(answers, server)
    summary = summarise(answers)
    results.add(
        NAME,
        "cache allowed" if may_cache else "cache forbidden",
        server.name,
        round_number,
        tokens_per_second=summary.tokens_per_second,
    )
