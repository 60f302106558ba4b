"""The parameters of a run, and the steps that several scenarios share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.answer import StreamedAnswer
from bench.load import Target, send_request
from bench.prompts import LoadRequest, build_text
from bench.results import Results
from bench.servers.peers import Peers
from bench.servers.start import RunningServer, ServerOptions

MODEL = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parameters of one run of the benchmark."""

    model: Path
    second_model: Path | None  # of about the same size, for `swap`
    peers: Peers
    workdir: Path
    rounds: int = 3
    is_quick: bool = False  # one short round to see that everything works, not a measurement
    threads: int = 0
    gpu_layers: int = 0
    clients: tuple[int, ...] = ()  # client counts of `throughput`; empty: all of REQUESTS
    prompt_words: int = 24  # length of each prompt of `throughput`
    answer_tokens: int = 64  # length of each answer of `throughput`
    varies_answers: bool = False  # half to one and a half times that
    settings: Mapping[str, str] = field(default_factory=dict)  # SPINDLL_*, for Spindll only

    def server_options(
        self, *, settings: Mapping[str, str] | None = None, **sizes: int
    ) -> ServerOptions:
        """The options of a scenario's servers: `settings` and `sizes`, completed by this plan."""
        return ServerOptions(
            models={MODEL: self.model},
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            settings={**(settings or {}), **self.settings},
            **sizes,
        )


def rotate(servers: Sequence[RunningServer], round_number: int) -> list[RunningServer]:
    """The servers with another one first in each round: the first one has a cooler machine."""
    first = round_number % len(servers)
    return [*servers[first:], *servers[:first]]


def warm_up(server: RunningServer) -> None:
    """Send one request, so that no measurement includes one-time costs."""
    request = LoadRequest(prompt=build_text(8, 0), max_tokens=8)
    raise_on_error([asyncio.run(send_request(server.target, request))], server)


def raise_on_error(answers: Sequence[StreamedAnswer], server: RunningServer) -> None:
    """Raise RuntimeError with the first error: a failed answer makes the numbers useless."""
    error = next((answer.error for answer in answers if answer.error), None)
    if error is not None:
        raise RuntimeError(f"{server.name}: {error}")


def estimate_words(target: Target, tokens: int) -> int:
    """Estimate how many words make a prompt of `tokens` tokens for this model."""
    counted = []
    for words in (50, 250):
        request = LoadRequest(prompt=build_text(words, 1), max_tokens=1)
        answer = asyncio.run(send_request(target, request))
        counted.append(answer.prompt_tokens)
    per_word = (counted[1] - counted[0]) / 200
    # A server that reports no usage: assume 1.4 tokens per word, as in English.
    return round(tokens / per_word) if per_word > 0 else round(tokens / 1.4)


def read_counters(server: RunningServer) -> dict[str, float]:
    """Read the engine's counters for the model; see RunnerCounters in engine.proto."""
    status: Any = server.call("GET", "/v1/status")
    models = status["engine"]["models"]
    counters: dict[str, float] = next(m["counters"] for m in models if m["name"].startswith(MODEL))
    return counters


def note_skipped(results: Results, name: str, reason: str) -> None:
    """Add a note that a scenario was not measured."""
    results.add_note(f"- {name}: not measured, {reason}")
