"""One and four streams with drafted tokens and without, side by side."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack

from bench.gpu.measuring import Case, Measuring
from bench.gpu.scale import Scale
from bench.load import run_closed_loop, summarise
from bench.prompts import LoadRequest, build_distinct, build_text
from bench.scenarios.plan import raise_on_error, read_counters, rotate, warm_up
from bench.servers.start import RunningServer, start_spindll

NAME = "drafting"
NEEDS_STACK = True
_CLIENTS = (1, 4)
_VARIANTS = {"on": "true", "off": "false"}


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model} for model in scale.models]


def run(case: Case, measuring: Measuring) -> None:
    scale = measuring.scale
    plan = measuring.build_plan(str(case["model"]))
    with ExitStack() as stack:
        servers = []
        for variant, value in _VARIANTS.items():
            workdir = measuring.workdir / variant
            workdir.mkdir()
            options = plan.server_options(
                settings={"SPINDLL_SPECULATE": value}, context_tokens=8192, sequences=4
            )
            started = stack.enter_context(start_spindll(options, workdir))
            servers.append(dataclasses.replace(started, name=f"drafting {variant}"))
        for server in servers:
            warm_up(server)
        for round_number in range(scale.rounds):
            for clients in _CLIENTS:
                for kind, requests in _build_requests(scale, clients, round_number).items():
                    for server in rotate(servers, round_number):
                        label = f"{clients} clients, {kind}"
                        _measure(case, measuring, server, label, clients, requests, round_number)


def _build_requests(
    scale: Scale, clients: int, round_number: int
) -> dict[str, Sequence[LoadRequest]]:
    """Texts without repetitions, and texts that consist of them."""
    seed = 100 * round_number + clients
    distinct = build_distinct(clients, words=24, max_tokens=scale.answer_tokens, seed=seed)
    repeated = " ".join([build_text(8, seed)] * 4)
    return {
        "distinct words": distinct,
        "repeated words": [
            LoadRequest(prompt=f"{number} {repeated}", max_tokens=scale.answer_tokens)
            for number in range(clients)
        ],
    }


def _measure(
    case: Case,
    measuring: Measuring,
    server: RunningServer,
    label: str,
    clients: int,
    requests: Sequence[LoadRequest],
    round_number: int,
) -> None:
    answers = asyncio.run(run_closed_loop(server.target, requests, clients=clients))
    raise_on_error(answers, server)
    summary = summarise(answers)
    measuring.results.add(
        f"{NAME} {case['model']}",
        label,
        server.name,
        round_number,
        tokens_per_second=summary.tokens_per_second,
        gap_p95_ms=None if summary.gap_p95 is None else 1000 * summary.gap_p95,
        drafts_accepted_so_far=read_counters(server)["draft_accepted"],
    )
