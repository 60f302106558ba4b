"""`run`: one chat, printed as it comes."""

from __future__ import annotations

import sys

import typer

from services.cli.api_client import ApiClient
from services.cli.connection import find
from services.cli.errors import Problem
from services.cli.paths import Places


def run(
    places: Places,
    name: str,
    prompt: str | None,
    *,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """The answer on stdout. Problem when there is none, or it breaks off."""
    said = sys.stdin.read() if prompt is None else prompt
    if not said.strip():
        raise Problem("nothing to say: give a prompt, or send one on stdin")
    with ApiClient(find(places)) as api:
        body = request(name, said, system=system, max_tokens=max_tokens, temperature=temperature)
        try:
            for chunk in api.stream_chat(body):
                print(text_of(chunk), end="", flush=True)
        except KeyboardInterrupt as error:
            print()
            raise typer.Exit(130) from error
        print()


def request(
    name: str,
    prompt: str,
    *,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> dict[str, object]:
    """The chat as the API wants it; what was not said is left to the model's defaults."""
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    chosen = {"max_tokens": max_tokens, "temperature": temperature}
    given = {field: value for field, value in chosen.items() if value is not None}
    return {"model": name, "messages": messages, **given}


def text_of(chunk: dict[str, object]) -> str:
    """What a chunk adds to the answer."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return ""
    return str(choices[0].get("delta", {}).get("content") or "")
