"""`run`: send one chat message and print the answer while it is generated."""

from __future__ import annotations

import sys

import typer

from services.cli.api_client import ApiClient
from services.cli.connection import find_connection
from services.cli.errors import CommandError
from services.cli.formatting import printable_lines
from services.cli.paths import StackPaths


def run(
    paths: StackPaths,
    name: str,
    prompt: str | None,
    *,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Print the answer to stdout. Raises CommandError when it fails or is cut off."""
    text = sys.stdin.read() if prompt is None else prompt
    if not text.strip():
        raise CommandError("the prompt is empty: give it as an argument or on stdin")
    with ApiClient(find_connection(paths)) as api:
        body = build_request(
            name, text, system=system, max_tokens=max_tokens, temperature=temperature
        )
        # A terminal would obey a model; a file or a pipe gets the answer as it is.
        shown = printable_lines if sys.stdout.isatty() else str
        try:
            for chunk in api.stream_chat(body):
                print(shown(delta_text(chunk)), end="", flush=True)
        except KeyboardInterrupt as error:
            print()
            raise typer.Exit(130) from error
        print()


def build_request(
    name: str,
    prompt: str,
    *,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> dict[str, object]:
    """The body of the chat request; an option that is None is left out."""
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    chosen = {"max_tokens": max_tokens, "temperature": temperature}
    given = {field: value for field, value in chosen.items() if value is not None}
    return {"model": name, "messages": messages, **given}


def delta_text(chunk: dict[str, object]) -> str:
    """The text that a chunk adds to the answer."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices:
        return ""
    return str(choices[0].get("delta", {}).get("content") or "")
