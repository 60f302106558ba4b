"""What every scenario is told, and what several of them do alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.answer import Answer
from bench.load import Target, ask_one
from bench.peers import Peers
from bench.prompts import Ask, text
from bench.results import Results
from bench.servers import Running, Shape

MODEL = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the benchmark."""

    model: Path
    second_model: Path | None  # of about the same size, for swapping
    peers: Peers
    workdir: Path
    rounds: int = 3
    is_quick: bool = False  # a look whether everything works, not a measurement
    threads: int = 0
    gpu_layers: int = 0
    clients: tuple[int, ...] = ()  # at once, in `throughput`; none: all it knows
    answer_tokens: int = 64  # of each of its answers
    settings: Mapping[str, str] = field(default_factory=dict)  # SPINDLL_*, ours only

    def shape(self, *, settings: Mapping[str, str] | None = None, **sizes: int) -> Shape:
        """Of the servers of a scenario: what the run says, and `sizes` of the shape."""
        return Shape(
            models={MODEL: self.model},
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            settings={**(settings or {}), **self.settings},
            **sizes,
        )


def interleaved(servers: Sequence[Running], number: int) -> list[Running]:
    """The servers, another one first in each round: who is first finds a cooler machine."""
    turn = number % len(servers)
    return [*servers[turn:], *servers[:turn]]


def warm_up(server: Running) -> None:
    """One answer, so that no measurement pays for the first time of anything."""
    check([asyncio.run(ask_one(server.target, Ask(prompt=text(8, 0), max_tokens=8)))], server)


def check(answers: Sequence[Answer], server: Running) -> None:
    """A failed answer spoils the numbers: stop. Raises RuntimeError with the first problem."""
    problem = next((answer.problem for answer in answers if answer.problem), None)
    if problem is not None:
        raise RuntimeError(f"{server.name}: {problem}")


def words_of(target: Target, tokens: int) -> int:
    """How many words make a prompt of so many tokens for this model."""
    counted = []
    for words in (50, 250):
        answer = asyncio.run(ask_one(target, Ask(prompt=text(words, 1), max_tokens=1)))
        counted.append(answer.prompt_tokens)
    per_word = (counted[1] - counted[0]) / 200
    # A server that counts nothing: English takes 1.4 tokens a word or so.
    return round(tokens / per_word) if per_word > 0 else round(tokens / 1.4)


def counters(server: Running) -> dict[str, float]:
    """Our engine's running totals for the model; see RunnerCounters in engine.proto."""
    status: Any = server.ask("GET", "/v1/status")
    models = status["engine"]["models"]
    found: dict[str, float] = next(m["counters"] for m in models if m["name"].startswith(MODEL))
    return found


def skip(results: Results, name: str, reason: str) -> None:
    """Say what was not measured."""
    results.note(f"- {name}: not measured, {reason}")
