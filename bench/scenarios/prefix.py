"""What is computed again: a system prompt of many requests at once, and a chat that grows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.answer import Answer
from bench.load import ask_one, closed_loop, summarise
from bench.peers import LLAMA_SERVER
from bench.prompts import chat_turns, shared_prefix
from bench.results import Results
from bench.scenarios.plan import Plan, check, interleaved, warm_up, words_of
from bench.servers import OURS, Running, running

NAME = "prefix"
REQUESTS = 16
PREFIX_TOKENS = 1000
TURNS = 8


def run(plan: Plan, results: Results) -> None:
    """Tokens computed of those asked for, with the caches on."""
    # Room for a server that shares nothing.
    shape = plan.shape(context_tokens=REQUESTS * 3 * PREFIX_TOKENS // 2)
    with running((OURS, LLAMA_SERVER), shape, plan.peers, plan.workdir) as servers:
        for server in servers:
            warm_up(server)
        words = words_of(servers[0].target, PREFIX_TOKENS)
        for number in range(plan.rounds):
            for server in interleaved(servers, number):
                _shared(results, server, words, number)
                _chat(results, server, number)


def _shared(results: Results, server: Running, words: int, number: int) -> None:
    asks = shared_prefix(REQUESTS, prefix_words=words, words=8, max_tokens=4, seed=71 + number)
    answers = asyncio.run(closed_loop(server.target, asks, clients=REQUESTS))
    _put(results, server, f"{REQUESTS} at once", number, answers)


def _chat(results: Results, server: Running, number: int) -> None:
    async def talk() -> list[Answer]:
        turns = chat_turns(TURNS, words=40, max_tokens=8, seed=131 + number)
        return [await ask_one(server.target, turn) for turn in turns]

    _put(results, server, f"{TURNS} turns", number, asyncio.run(talk()))


def _put(
    results: Results, server: Running, case: str, number: int, answers: Sequence[Answer]
) -> None:
    check(answers, server)
    summary = summarise(answers)
    firsts = [a.first_token_seconds for a in answers if a.first_token_seconds is not None]
    results.put(
        NAME,
        case,
        server.name,
        number,
        computed_prompt_tokens=summary.prompt_tokens - summary.cached_tokens,
        asked_prompt_tokens=summary.prompt_tokens,
        cached_percent=100 * summary.cached_tokens / max(summary.prompt_tokens, 1),
        last_first_token_ms=1000 * max(firsts),
    )
