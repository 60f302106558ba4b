"""One and four streams of two Spindlls side by side: drafted tokens allowed, and not."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import ExitStack

from bench.load import run_closed_loop, summarise
from bench.prompts import LoadRequest, build_chat_turns, build_distinct, build_text
from bench.results import Results
from bench.scenarios.plan import Plan, raise_on_error, read_counters, rotate, warm_up
from bench.servers.start import SPINDLL, RunningServer, start_spindll

NAME = "drafting"
CLIENTS = (1, 4)
_VARIANTS = {SPINDLL: "true", "without drafts": "false"}  # SPINDLL_SPECULATE by name
_TURNS = 3
_SAME_TOKEN = "one token again and again"  # the most that a draft can gain, whatever the model
_TOKEN = "300"


def run(plan: Plan, results: Results) -> None:
    """Measure new texts, growing chats, and prompts and answers that consist of repetitions."""
    with ExitStack() as stack:
        servers = []
        for name, value in _VARIANTS.items():
            workdir = plan.workdir / f"{NAME}-{value}"
            workdir.mkdir()
            options = plan.server_options(
                settings={"SPINDLL_SPECULATE": value}, sequences=max(CLIENTS)
            )
            started = stack.enter_context(start_spindll(options, workdir))
            servers.append(dataclasses.replace(started, name=name))
        for server in servers:
            warm_up(server)
        for round_number in range(plan.rounds):
            for clients in CLIENTS:
                for kind, requests in _build_requests(plan, clients, round_number).items():
                    for server in rotate(servers, round_number):
                        label = f"{kind}, {clients} at once"
                        _measure(results, server, label, clients, requests, round_number)


def _build_requests(plan: Plan, clients: int, round_number: int) -> dict[str, list[LoadRequest]]:
    tokens = 16 if plan.is_quick else plan.answer_tokens
    seed = 100 * round_number + clients
    turns = [
        build_chat_turns(_TURNS, words=24, max_tokens=tokens, seed=10 * seed + client)
        for client in range(clients)
    ]
    repeated = " ".join([build_text(8, seed)] * 4)
    return {
        "new words": build_distinct(4, words=24, max_tokens=tokens, seed=seed),
        "chats": [turn for same in zip(*turns, strict=True) for turn in same],
        "repeated words": [
            LoadRequest(prompt=f"{number} {repeated}", max_tokens=2 * tokens) for number in range(4)
        ],
        _SAME_TOKEN: build_distinct(4, words=24, max_tokens=2 * tokens, seed=seed + 50),
    }


def _measure(
    results: Results,
    server: RunningServer,
    label: str,
    clients: int,
    requests: list[LoadRequest],
    round_number: int,
) -> None:
    target = server.target
    if label.startswith(_SAME_TOKEN):
        target = dataclasses.replace(target, extra={**target.extra, "logit_bias": {_TOKEN: 100}})
    before = read_counters(server)
    answers = asyncio.run(run_closed_loop(target, requests, clients=clients))
    raise_on_error(answers, server)
    summary = summarise(answers)
    after = read_counters(server)
    results.add(
        NAME,
        label,
        server.name,
        round_number,
        tokens_per_second=summary.tokens_per_second,
        gap_p95_ms=None if summary.gap_p95 is None else 1000 * summary.gap_p95,
        drafted=after["draft_tokens"] - before["draft_tokens"],
        drafts_accepted=after["draft_accepted"] - before["draft_accepted"],
    )
