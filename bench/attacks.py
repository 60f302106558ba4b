"""Measure the gaps between the tokens of one key's stream, calm and under another key's attacks.

    ./spindll up --detach --data /tmp/attacks --workers 1
    .venv/bin/python -m bench.attacks --data /tmp/attacks

On a computer that has other work, `SPINDLL_THREADS=1` for the stack: threads that wait for each
other make every step as slow as the slowest of them.

Each attack runs for some seconds, with four requests at a time, in a process of its own with the
lowest priority: its own work stands for that of another computer. The stack must be on this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

URL = "http://127.0.0.1:{port}"
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
AT_A_TIME = 4
MIB = 1 << 20

# A request: its path, its headers, its body. The number makes each one different.
Request = tuple[str, dict[str, str], bytes]


def chat(content: str, **fields: Any) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "tiny", "max_tokens": 8, "messages": [message], **fields}).encode()


def schema_of(count: int, number: int) -> dict[str, Any]:
    names = [f"p{number}_{index}" for index in range(count)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


def with_schema(schema: dict[str, Any]) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat("hi", response_format=form)


def many_prompts() -> bytes:
    body = {"model": "tiny", "prompt": ["a"] * 64, "max_tokens": 1, "guided_regex": "x" * 250_000}
    return json.dumps(body).encode()


def wrong_types() -> bytes:
    body = {"model": "tiny", "prompt": [["a"] * (MIB // 4)]}
    return json.dumps(body, separators=(",", ":")).encode()


def alternatives(number: int) -> bytes:
    return with_schema({"anyOf": [schema_of(1, 2000 * number + i) for i in range(2000)]})


ATTACKS: dict[str, Callable[[int], Request]] = {
    "schema with 3000 optional properties": lambda n: (CHAT, {}, with_schema(schema_of(3000, n))),
    "schema with 2000 alternatives": lambda n: (CHAT, {}, alternatives(n)),
    "schema with 600 optional properties": lambda n: (CHAT, {}, with_schema(schema_of(600, n))),
    "64 prompts, regex of 250 KB": lambda _: (COMPLETIONS, {}, many_prompts()),
    "262144 values of a wrong type": lambda _: (COMPLETIONS, {}, wrong_types()),
    "1 MiB of `<` in a chat": lambda _: (CHAT, {}, chat("<" * MIB)),
    "131072 times `</s>` in a chat": lambda _: (CHAT, {}, chat("</s>" * (MIB // 8))),
    "JSON nested 200000 deep": lambda _: (CHAT, {}, b'{"messages":' + b"[" * 200_000),
    "wrong keys": lambda n: (MODELS, {"authorization": f"Bearer sk-{n:032}"}, b""),
    "headers of 60 KB": lambda _: (MODELS, {"x-large": "x" * 60_000}, b""),
}


async def read_gaps(client: httpx.AsyncClient, seconds: float) -> list[float]:
    """The seconds between the tokens of one stream after the other."""
    gaps: list[float] = []
    ends_at = time.perf_counter() + seconds
    body = {"model": "tiny", "stream": True, "max_tokens": 256, "ignore_eos": True, "messages": []}
    body["messages"] = [{"role": "user", "content": "What is the capital of France?"}]
    while time.perf_counter() < ends_at:
        last = None
        async with client.stream("POST", CHAT, json=body) as response:
            async for _ in _read_tokens(response):
                now = time.perf_counter()
                if last is not None:
                    gaps.append(now - last)
                last = now
                if now >= ends_at:
                    break
    return gaps


async def _read_tokens(response: httpx.Response) -> AsyncIterator[str]:
    response.raise_for_status()
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield line


def attack(url: str, key: str, name: str, seconds: float, statuses: Any) -> None:
    """Attack until the time is over; a process of its own."""
    os.nice(19)
    asyncio.run(_attack(url, key, ATTACKS[name], time.monotonic() + seconds, statuses))


async def _attack(
    url: str, key: str, build: Callable[[int], Request], ends_at: float, statuses: Any
) -> None:
    numbers = iter(range(1 << 30))
    found: dict[str, int] = {}

    async def send() -> None:
        async with open_client(url, key) as client:
            while time.monotonic() < ends_at:
                path, headers, body = build(next(numbers))
                method = "POST" if body else "GET"
                try:
                    answer = await client.request(method, path, headers=headers, content=body)
                    status = str(answer.status_code)
                except httpx.HTTPError as error:
                    status = type(error).__name__
                found[status] = found.get(status, 0) + 1

    await asyncio.gather(*(send() for _ in range(AT_A_TIME)))
    statuses.put(found)


def open_client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False)


def find_p95(gaps: list[float]) -> float:
    """Infinity if there were too few tokens to tell: the stream stood still."""
    return statistics.quantiles(gaps, n=20)[-1] if len(gaps) > 1 else float("inf")


async def measure(url: str, stream_key: str, attack_key: str, seconds: float, only: str) -> None:
    context = multiprocessing.get_context("spawn")
    async with open_client(url, stream_key) as client:
        await read_gaps(client, 1.0)
        calm = find_p95(await read_gaps(client, seconds))
        print(f"{'calm':46} p95 {1000 * calm:7.2f} ms", flush=True)
        for name in (name for name in ATTACKS if only in name):
            statuses: Any = context.Queue()
            process = context.Process(
                target=attack, args=(url, attack_key, name, seconds, statuses)
            )
            process.start()
            gaps = await read_gaps(client, seconds)
            found = await asyncio.to_thread(statuses.get, True, 120)
            await asyncio.to_thread(process.join)
            p95, worst = find_p95(gaps), max(gaps, default=seconds)
            print(
                f"{name:46} p95 {1000 * p95:7.2f} ms, {p95 / calm:5.2f} x calm,"
                f" worst {1000 * worst:6.0f} ms; statuses {found}",
                flush=True,
            )
        after = find_p95(await read_gaps(client, seconds))
        print(f"{'calm again':46} p95 {1000 * after:7.2f} ms, {after / calm:5.2f} x calm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="data directory of the stack")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each attack")
    parser.add_argument("--only", default="", help="attacks with this text in their names")
    options = parser.parse_args()
    secrets = options.data / "secrets"
    stream_key, attack_key = (
        (secrets / f"{role}.key").read_text().strip() for role in ("admin", "user")
    )
    asyncio.run(
        measure(
            URL.format(port=options.port), stream_key, attack_key, options.seconds, options.only
        )
    )


if __name__ == "__main__":
    main()
