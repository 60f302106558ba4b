"""Requests for MLX batchers."""

from __future__ import annotations

from typing import Any

from services.engine.core import Sampling, Stopping
from services.engine.messages.commands import Submit
from tests.engine.runner.child_runner import submit

LONG = "This sentence is repeated to make a prompt that takes several steps to read. " * 20


def build(id_: int, text: str, tokens: int = 8, **changes: Any) -> Submit:
    """A greedy request for exactly so many tokens."""
    stopping = Stopping(max_tokens=tokens, ignore_eos=True)
    return submit(
        id_, text, **{"stopping": stopping, "sampling": Sampling(temperature=0.0)} | changes
    )
