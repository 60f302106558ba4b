"""A chat request, and helpers that send it and read the stream."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai

from tests.api.conftest import Api

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
BODY: dict[str, Any] = {"model": "tiny", "messages": QUESTION}
PATH = "/v1/chat/completions"


def openai_client(api: Api) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.user_key, max_retries=0)


async def stream_lines(client: httpx.AsyncClient, body: dict[str, Any]) -> list[str]:
    """The lines of a streamed answer that are not blank."""
    async with client.stream("POST", PATH, json={**body, "stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        return [line async for line in response.aiter_lines() if line]


def parse_data(line: str) -> Any:
    return json.loads(line.removeprefix("data: "))
