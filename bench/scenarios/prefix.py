"""How many prompt tokens are computed again: for a shared system prompt, and for a growing chat."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.answer import StreamedAnswer
from bench.load import run_closed_loop, send_request, summarise
from bench.prompts import build_chat_turns, build_shared_prefix
from bench.results import Results
from bench.scenarios.plan import Plan, estimate_words, raise_on_error, rotate, warm_up
from bench.servers.peers import LLAMA_SERVER
from bench.servers.start import SPINDLL, RunningServer, start_servers

NAME = "prefix"
REQUESTS = 16
PREFIX_TOKENS = 1000
TURNS = 8


def run(plan: Plan, results: Results) -> None:
    """Compare computed with requested prompt tokens, with the caches on."""
    # Large enough for a server that shares nothing.
    options = plan.server_options(context_tokens=REQUESTS * 3 * PREFIX_TOKENS // 2)
    with start_servers((SPINDLL, LLAMA_SERVER), options, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        words = estimate_words(servers[0].target, PREFIX_TOKENS)
        for round_number in range(plan.rounds):
            for server in rotate(servers, round_number):
                _measure_shared_prefix(results, server, words, round_number)
                _measure_chat(results, server, round_number)


def _measure_shared_prefix(
    results: Results, server: RunningServer, words: int, round_number: int
) -> None:
    requests = build_shared_prefix(
        REQUESTS, prefix_words=words, words=8, max_tokens=4, seed=71 + round_number
    )
    answers = asyncio.run(run_closed_loop(server.target, requests, clients=REQUESTS))
    _add_results(results, server, f"{REQUESTS} at once", round_number, answers)


def _measure_chat(results: Results, server: RunningServer, round_number: int) -> None:
    async def send_turns() -> list[StreamedAnswer]:
        turns = build_chat_turns(TURNS, words=40, max_tokens=8, seed=131 + round_number)
        return [await send_request(server.target, turn) for turn in turns]

    _add_results(results, server, f"{TURNS} turns", round_number, asyncio.run(send_turns()))


def _add_results(
    results: Results,
    server: RunningServer,
    case: str,
    round_number: int,
    answers: Sequence[StreamedAnswer],
) -> None:
    raise_on_error(answers, server)
    summary = summarise(answers)
    firsts = [a.first_token_seconds for a in answers if a.first_token_seconds is not None]
    results.add(
        NAME,
        case,
        server.name,
        round_number,
        computed_prompt_tokens=summary.prompt_tokens - summary.cached_tokens,
        asked_prompt_tokens=summary.prompt_tokens,
        cached_percent=100 * summary.cached_tokens / max(summary.prompt_tokens, 1),
        last_first_token_ms=1000 * max(firsts),
    )
