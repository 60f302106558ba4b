"""Drive an OpenAI-compatible server and say how it did.

    python -m bench.load http://127.0.0.1:8080 --model tiny --key-file D/secrets/user.key --clients 8
    python -m bench.load http://127.0.0.1:8080 --model tiny --rate 2.5 --requests 100

Closed loop (`--clients`): so many clients, each sends its next request when its last one is answered.
Open loop (`--rate`): requests come at random moments, whether or not the server keeps up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import prompts
from bench.answer import Answer, read
from bench.prompts import Ask
from bench.wire import Address, Recording, record, request_bytes

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server, the model to ask for, and what its requests need besides."""

    address: Address
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def request(self, ask: Ask) -> bytes:
        """The request as it goes over the wire."""
        return request_bytes(self.address, ask.path, ask.body(self.model, self.extra))


@dataclass(frozen=True, slots=True)
class Summary:
    """Many answers in numbers. Times in seconds; None where nothing was measured."""

    requests: int
    failed: int
    seconds: float  # from the first request to the last answer's end
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    tokens_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    gap_p50: float | None
    gap_p95: float | None
    gap_max: float | None


async def ask_one(target: Target, ask: Ask, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
    """Send one request and wait for its answer."""
    recording = Recording()
    await record(target.address, target.request(ask), recording, timeout_seconds=timeout_seconds)
    return read(recording)


async def closed_loop(target: Target, asks: Sequence[Ask], *, clients: int) -> list[Answer]:
    """All asks, at most `clients` at a time."""
    # Everything is encoded before, and read after, the time that is measured.
    waiting = iter([(target.request(ask), Recording()) for ask in asks])
    recordings: list[Recording] = []

    async def client() -> None:
        for request, recording in waiting:
            recordings.append(recording)
            await record(target.address, request, recording, timeout_seconds=TIMEOUT_SECONDS)

    await asyncio.gather(*(client() for _ in range(clients)))
    return [read(recording) for recording in recordings]


async def open_loop(
    target: Target, asks: Sequence[Ask], *, rate: float, seed: int = 0
) -> list[Answer]:
    """All asks at random moments, `rate` a second on average (a Poisson process)."""
    rng = random.Random(seed)
    recordings = [Recording() for _ in asks]
    requests = [target.request(ask) for ask in asks]
    async with asyncio.TaskGroup() as group:
        for request, recording in zip(requests, recordings, strict=True):
            group.create_task(
                record(target.address, request, recording, timeout_seconds=TIMEOUT_SECONDS)
            )
            await asyncio.sleep(rng.expovariate(rate))
    return [read(recording) for recording in recordings]


def summarise(answers: Iterable[Answer]) -> Summary:
    """The numbers people compare."""
    everything = list(answers)
    good = [answer for answer in everything if answer.is_good]
    ends = [answer.ended_at for answer in good if answer.ended_at is not None]
    seconds = max(ends) - min(answer.sent_at for answer in good) if ends else 0.0
    firsts = [a.first_token_seconds for a in good if a.first_token_seconds is not None]
    gaps = [gap for answer in good for gap in answer.gaps()]
    tokens = sum(answer.completion_tokens for answer in good)
    return Summary(
        requests=len(everything),
        failed=len(everything) - len(good),
        seconds=seconds,
        prompt_tokens=sum(answer.prompt_tokens for answer in good),
        cached_tokens=sum(answer.cached_tokens for answer in good),
        completion_tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        first_token_p50=percentile(firsts, 50),
        first_token_p95=percentile(firsts, 95),
        gap_p50=percentile(gaps, 50),
        gap_p95=percentile(gaps, 95),
        gap_max=max(gaps, default=None),
    )


def percentile(values: Sequence[float], percent: int) -> float | None:
    """By linear interpolation between the nearest; None of nothing."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> None:
    arguments = _parser().parse_args()
    key = arguments.key_file.read_text().strip() if arguments.key_file else ""
    target = Target(Address.of(arguments.url, key), arguments.model)
    asks = _asks(arguments)
    if arguments.rate:
        run = open_loop(target, asks, rate=arguments.rate, seed=arguments.seed)
    else:
        run = closed_loop(target, asks, clients=arguments.clients)
    answers = asyncio.run(run)
    for problem in sorted({answer.problem for answer in answers if answer.problem}):
        print(f"failed: {problem}")
    print(json.dumps(asdict(summarise(answers)), indent=2))


def _asks(arguments: argparse.Namespace) -> list[Ask]:
    size = {"words": arguments.words, "max_tokens": arguments.max_tokens, "seed": arguments.seed}
    if arguments.workload == "prefix":
        return prompts.shared_prefix(
            arguments.requests, prefix_words=arguments.prefix_words, **size
        )
    if arguments.workload == "chat":
        return prompts.chat_turns(arguments.requests, **size)
    return prompts.distinct(arguments.requests, **size)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url")
    parser.add_argument("--model", required=True)
    parser.add_argument("--key-file", type=Path, help="file with the API key")
    parser.add_argument("--workload", choices=("distinct", "prefix", "chat"), default="distinct")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, help="requests a second: open loop")
    parser.add_argument("--words", type=int, default=60, help="of a prompt, or of a chat's turn")
    parser.add_argument("--prefix-words", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
