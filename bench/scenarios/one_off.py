"""What prompts that nobody sends again cost those after them: the cache allowed, over forbidden."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from bench.load import closed_loop, summarise
from bench.prompts import distinct
from bench.results import Results
from bench.scenarios.plan import Plan, check, warm_up
from bench.servers import OURS, Running, running

NAME = "one-off"
CLIENTS = 16
_REQUESTS = 48  # that leave sequences behind, and as many that are measured


def run(plan: Plan, results: Results) -> None:
    """Two waves of different prompts; the second is measured. A new server for each."""
    for number in range(plan.rounds):
        for may_cache in (True, False):
            with running((OURS,), plan.shape(), plan.peers, plan.workdir) as servers:
                for server in servers:
                    warm_up(server)
                    _measure(plan, results, server, number, may_cache=may_cache)


def _measure(
    plan: Plan, results: Results, server: Running, number: int, *, may_cache: bool
) -> None:
    count, tokens = (CLIENTS, 8) if plan.is_quick else (_REQUESTS, 64)
    for wave in range(2):
        seed = 7000 + 2 * number + wave
        asks = distinct(count, words=24, max_tokens=tokens, seed=seed)
        asks = [replace(ask, may_cache=may_cache) for ask in asks]
        answers = asyncio.run(closed_loop(server.target, asks, clients=CLIENTS))
        check(answers, server)
    summary = summarise(answers)
    results.put(
        NAME,
        "cache allowed" if may_cache else "cache forbidden",
        server.name,
        number,
        tokens_per_second=summary.tokens_per_second,
    )
