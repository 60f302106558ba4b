"""What the complete responses of chat and text completions have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from services.api.dialects.openai.responses.usage_response import build_timings, build_usage
from services.api.generation.answers.accumulator import Answer
from services.api.generation.answers.usage import UsageCounter


def build_response(
    head: dict[str, Any],
    answers: Sequence[Answer],
    usage: UsageCounter,
    build_choice: Callable[[int, Answer], dict[str, Any]],
) -> dict[str, Any]:
    """The response object; `build_choice` makes what a choice has beside its index.

    A choice that names no `finish_reason` has that of the answer.
    """
    choices = [
        {"index": index, "finish_reason": answer.reason.value, **build_choice(index, answer)}
        for index, answer in enumerate(answers)
    ]
    return {
        **head,
        "choices": choices,
        "usage": build_usage(usage),
        "timings": build_timings(usage),
    }


def build_head(response_id: str, object_name: str, model: str) -> dict[str, Any]:
    """The fields with which every response and every chunk begins."""
    return {
        "id": response_id,
        "object": object_name,
        "created": int(time.time()),
        "model": model,
    }
