"""Send requests to an OpenAI-compatible server and summarise its answers.

    python -m bench.load http://127.0.0.1:8080 --model tiny --key-file D/secrets/user.key --clients 8
    python -m bench.load http://127.0.0.1:8080 --model tiny --rate 2.5 --requests 100

Closed loop (`--clients`): each client sends its next request when its last one is answered.
Open loop (`--rate`): requests are sent at random moments, whether or not the server keeps up.
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
from bench.answer import StreamedAnswer, parse_recording
from bench.prompts import LoadRequest
from bench.wire import Recording, ServerAddress, encode_request, record

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server, the model to request, and additional fields for every request."""

    address: ServerAddress
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, request: LoadRequest) -> bytes:
        """Encode the request as it goes over the wire."""
        body = request.encode_body(self.model, self.extra)
        return encode_request(self.address, request.path, body)


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of many answers. Times are in seconds; None means not measured."""

    requests: int
    failed: int
    seconds: float  # from the first request to the end of the last answer
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    tokens_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    gap_p50: float | None
    gap_p95: float | None
    gap_max: float | None


async def send_request(
    target: Target, request: LoadRequest, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> StreamedAnswer:
    """Send one request and wait for its answer."""
    recording = Recording()
    encoded = target.encode(request)
    await record(target.address, encoded, recording, timeout_seconds=timeout_seconds)
    return parse_recording(recording)


async def run_closed_loop(
    target: Target, requests: Sequence[LoadRequest], *, clients: int
) -> list[StreamedAnswer]:
    """Send all requests, at most `clients` at a time."""
    # All requests are encoded before the measured time and all answers are parsed after it.
    waiting = iter([(target.encode(request), Recording()) for request in requests])
    recordings: list[Recording] = []

    async def run_client() -> None:
        for encoded, recording in waiting:
            recordings.append(recording)
            await record(target.address, encoded, recording, timeout_seconds=TIMEOUT_SECONDS)

    await asyncio.gather(*(run_client() for _ in range(clients)))
    return [parse_recording(recording) for recording in recordings]


async def run_open_loop(
    target: Target, requests: Sequence[LoadRequest], *, rate: float, seed: int = 0
) -> list[StreamedAnswer]:
    """Send all requests at random moments, `rate` per second on average (a Poisson process)."""
    rng = random.Random(seed)
    recordings = [Recording() for _ in requests]
    encoded = [target.encode(request) for request in requests]
    async with asyncio.TaskGroup() as group:
        for data, recording in zip(encoded, recordings, strict=True):
            group.create_task(
                record(target.address, data, recording, timeout_seconds=TIMEOUT_SECONDS)
            )
            await asyncio.sleep(rng.expovariate(rate))
    return [parse_recording(recording) for recording in recordings]


def summarise(answers: Iterable[StreamedAnswer]) -> Summary:
    """Compute the statistics; failed answers are only counted."""
    everything = list(answers)
    good = [answer for answer in everything if answer.has_succeeded]
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
    """The percentile by linear interpolation; None if there are no values."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> None:
    arguments = _build_parser().parse_args()
    key = arguments.key_file.read_text().strip() if arguments.key_file else ""
    target = Target(ServerAddress.from_url(arguments.url, key), arguments.model)
    requests = _build_requests(arguments)
    if arguments.rate:
        run = run_open_loop(target, requests, rate=arguments.rate, seed=arguments.seed)
    else:
        run = run_closed_loop(target, requests, clients=arguments.clients)
    answers = asyncio.run(run)
    for error in sorted({answer.error for answer in answers if answer.error}):
        print(f"failed: {error}")
    print(json.dumps(asdict(summarise(answers)), indent=2))


def _build_requests(arguments: argparse.Namespace) -> list[LoadRequest]:
    size = {"words": arguments.words, "max_tokens": arguments.max_tokens, "seed": arguments.seed}
    if arguments.workload == "prefix":
        return prompts.build_shared_prefix(
            arguments.requests, prefix_words=arguments.prefix_words, **size
        )
    if arguments.workload == "chat":
        return prompts.build_chat_turns(arguments.requests, **size)
    return prompts.build_distinct(arguments.requests, **size)


def _build_parser() -> argparse.ArgumentParser:
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
    parser.add_argument("--rate", type=float, help="requests per second; selects the open loop")
    parser.add_argument(
        "--words", type=int, default=60, help="words of a prompt, or of one chat turn"
    )
    parser.add_argument("--prefix-words", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
