"""What a step costs with 1 to 64 sequences, and how much of it is spent outside the model."""

from __future__ import annotations

import asyncio
import time

from bench.load import run_closed_loop, summarise
from bench.prompts import build_distinct
from bench.results import Results
from bench.scenarios.plan import Plan, raise_on_error, read_counters, warm_up
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "scaling"
SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
_COUNTERS_TIMEOUT_SECONDS = 10.0


def run(plan: Plan, results: Results) -> None:
    """Read the time inside and around the backend from the engine's counters."""
    options = plan.server_options(context_tokens=16_384, sequences=max(SEQUENCES))
    with start_servers((SPINDLL,), options, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
            for round_number in range(plan.rounds):
                for sequences in SEQUENCES[:4] if plan.is_quick else SEQUENCES:
                    _measure(results, server, sequences, round_number)


def _measure(results: Results, server: RunningServer, sequences: int, round_number: int) -> None:
    before = read_counters(server)
    seed = 500 + 100 * round_number + sequences
    requests = build_distinct(sequences, words=8, max_tokens=32, seed=seed)
    answers = asyncio.run(run_closed_loop(server.target, requests, clients=sequences))
    raise_on_error(answers, server)
    summary = summarise(answers)
    after = _wait_for_counters(server, before["completion_tokens"] + summary.completion_tokens)
    spent = {name: after[name] - before[name] for name in after}
    around = spent["step_seconds"] - spent["decode_seconds"]
    results.add(
        NAME,
        f"{sequences} sequences",
        server.name,
        round_number,
        step_ms=1000 * spent["step_seconds"] / spent["steps"],
        decode_ms=1000 * spent["decode_seconds"] / spent["steps"],
        around_decode_ms=1000 * around / spent["steps"],
        around_decode_percent=100 * around / spent["step_seconds"],
        tokens_per_second=summary.tokens_per_second,
    )


def _wait_for_counters(server: RunningServer, completion_tokens: float) -> dict[str, float]:
    """Wait until the counters, which arrive with a heartbeat, include this many tokens."""
    deadline = time.monotonic() + _COUNTERS_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        counters = read_counters(server)
        if counters["completion_tokens"] >= completion_tokens:
            return counters
        time.sleep(0.1)
    raise RuntimeError("the engine's counters do not reach the number of tokens it has sent")
