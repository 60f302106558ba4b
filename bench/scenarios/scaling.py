"""What a step costs with 1 to 64 sequences, and how much of it is not the model."""

from __future__ import annotations

import asyncio
import time

from bench.load import closed_loop, summarise
from bench.prompts import distinct
from bench.results import Results
from bench.scenarios.plan import Plan, check, counters, warm_up
from bench.servers import OURS, Running, running

NAME = "scaling"
SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
_COUNTED_SECONDS = 10.0


def run(plan: Plan, results: Results) -> None:
    """From the engine's own counters: time inside the backend, and around it."""
    shape = plan.shape(context_tokens=16_384, sequences=max(SEQUENCES))
    with running((OURS,), shape, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
            for number in range(plan.rounds):
                for count in SEQUENCES[:4] if plan.is_quick else SEQUENCES:
                    _measure(results, server, count, number)


def _measure(results: Results, server: Running, count: int, number: int) -> None:
    before = counters(server)
    asks = distinct(count, words=8, max_tokens=32, seed=500 + 100 * number + count)
    answers = asyncio.run(closed_loop(server.target, asks, clients=count))
    check(answers, server)
    summary = summarise(answers)
    after = _counted(server, before["completion_tokens"] + summary.completion_tokens)
    spent = {name: after[name] - before[name] for name in after}
    around = spent["step_seconds"] - spent["decode_seconds"]
    results.put(
        NAME,
        f"{count} sequences",
        server.name,
        number,
        step_ms=1000 * spent["step_seconds"] / spent["steps"],
        decode_ms=1000 * spent["decode_seconds"] / spent["steps"],
        around_decode_ms=1000 * around / spent["steps"],
        around_decode_percent=100 * around / spent["step_seconds"],
        tokens_per_second=summary.tokens_per_second,
    )


def _counted(server: Running, completion_tokens: float) -> dict[str, float]:
    """The counters once they know of so many tokens: they travel with a beat."""
    deadline = time.monotonic() + _COUNTED_SECONDS
    while time.monotonic() < deadline:
        now = counters(server)
        if now["completion_tokens"] >= completion_tokens:
            return now
        time.sleep(0.1)
    raise RuntimeError("the engine's counters do not reach the tokens it has sent")
