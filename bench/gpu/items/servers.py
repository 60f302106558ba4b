"""The stack beside llama-server of the same libraries: throughput, first tokens and gaps."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass

from bench.gpu.measuring import Case, Measuring
from bench.gpu.scale import Scale
from bench.load import run_closed_loop, summarise
from bench.prompts import build_distinct
from bench.results import Results
from bench.scenarios.plan import MODEL, raise_on_error, rotate, warm_up
from bench.servers.start import RunningServer, ServerOptions, start_llama_server, start_spindll

NAME = "servers"
NEEDS_STACK = True
_TOKENS_PER_WORD = 2
_SPARE_TOKENS = 64
_SAMPLED = {"temperature": 0.8, "seed": 1}


@dataclass(frozen=True, slots=True)
class _Variant:
    kv_mode: str  # Spindll's
    arguments: tuple[str, ...] = ()  # llama-server's
    is_sampled: bool = False


_VARIANTS = {
    "unified": _Variant("unified"),
    "split": _Variant("split", ("--no-kv-unified",)),
    "sampled": _Variant("split", ("--no-kv-unified",), is_sampled=True),
    "sampled on the device": _Variant(
        "split", ("--no-kv-unified", "--backend-sampling"), is_sampled=True
    ),
}


def list_cases(scale: Scale) -> list[Case]:
    return [
        {"model": model, "words": words, "variant": variant}
        for model in scale.models
        for words in scale.prompt_words
        for variant in _VARIANTS
    ]


def run(case: Case, measuring: Measuring) -> None:
    scale, variant = measuring.scale, _VARIANTS[str(case["variant"])]
    length = scale.answer_tokens + _TOKENS_PER_WORD * int(case["words"]) + _SPARE_TOKENS
    most = max(scale.clients)
    settings = {"SPINDLL_KV_MODE": variant.kv_mode}
    if variant.kv_mode == "split":  # llama-server divides its context, ours is for each sequence
        settings["SPINDLL_CONTEXT_LENGTH"] = str(length)
    options = ServerOptions(
        models={MODEL: measuring.make_model(str(case["model"]))},
        context_tokens=most * length,
        sequences=most,
        threads=scale.threads,
        gpu_layers=scale.gpu_layers,
        settings=settings,
    )
    program = measuring.find_peers().llama_server
    with ExitStack() as stack:
        servers = [stack.enter_context(start_spindll(options, measuring.workdir))]
        if program is None:
            measuring.results.add_note(f"- {NAME}: no llama-server to compare with")
        else:
            started = start_llama_server(
                options, program, measuring.workdir, arguments=variant.arguments
            )
            servers.append(stack.enter_context(started))
        for server in servers:
            warm_up(server)
        for round_number in range(scale.rounds):
            for clients in scale.clients:
                for server in rotate(servers, round_number):
                    _measure(case, measuring, server, clients, round_number)


def _measure(
    case: Case, measuring: Measuring, server: RunningServer, clients: int, round_number: int
) -> None:
    extra = _SAMPLED if _VARIANTS[str(case["variant"])].is_sampled else {}
    target = dataclasses.replace(server.target, extra=extra)
    requests = build_distinct(
        clients * (1 if measuring.scale.is_dry else 2),
        words=int(case["words"]),
        max_tokens=measuring.scale.answer_tokens,
        seed=1000 * round_number + clients,
    )
    answers = asyncio.run(run_closed_loop(target, requests, clients=clients))
    raise_on_error(answers, server)
    summary = summarise(answers)
    _add(measuring.results, case, server, clients, round_number, dataclasses.asdict(summary))


def _add(
    results: Results,
    case: Case,
    server: RunningServer,
    clients: int,
    round_number: int,
    summary: dict[str, float | None],
) -> None:
    def ms(name: str) -> float | None:
        seconds = summary[name]
        return None if seconds is None else 1000 * seconds

    results.add(
        f"{NAME} {case['model']} {case['variant']}",
        f"{clients} clients, {case['words']} words",
        server.name,
        round_number,
        tokens_per_second=summary["tokens_per_second"],
        first_token_p50_ms=ms("first_token_p50"),
        first_token_p95_ms=ms("first_token_p95"),
        gap_p50_ms=ms("gap_p50"),
        gap_p95_ms=ms("gap_p95"),
    )
