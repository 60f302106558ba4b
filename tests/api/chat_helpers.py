"""A question, and ways to ask it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai

from tests.api.conftest import Api

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
BODY: dict[str, Any] = {"model": "tiny", "messages": QUESTION}
PATH = "/v1/chat/completions"


def sdk(api: Api) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.user_key, max_retries=0)


async def lines(client: httpx.AsyncClient, body: dict[str, Any]) -> list[str]:
    """The lines of a streamed answer that say something."""
    async with client.stream("POST", PATH, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [line async for line in answer.aiter_lines() if line]


def data(line: str) -> Any:
    return json.loads(line.removeprefix("data: "))
