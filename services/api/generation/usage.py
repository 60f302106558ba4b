"""The usage of a generation: OpenAI's `usage`, and llama.cpp's `timings` in addition."""

from __future__ import annotations

from typing import Any

from protos import engine_pb2
from services.api.clients.generation_stream import GenerationStream


class UsageCounter:
    """Adds up the ends of the answers of one generation.

    A prompt counts once, however many answers it has.
    """

    def __init__(self, generation: GenerationStream) -> None:
        self._generation = generation
        self._prompts: dict[int, engine_pb2.Finished] = {}
        self._finished: list[engine_pb2.Finished] = []

    def add(self, index: int, finished: engine_pb2.Finished) -> None:
        """Answer `index` has ended."""
        self._prompts.setdefault(self._generation.find_submit(index), finished)
        self._finished.append(finished)

    @property
    def is_complete(self) -> bool:
        """Whether every answer has ended."""
        return len(self._finished) == self._generation.answer_count

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompts, of which cached, and of the answers."""
        prompt = sum(f.prompt_tokens for f in self._prompts.values())
        completion = sum(f.completion_tokens for f in self._finished)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
        }

    def timings(self) -> dict[str, Any]:
        """Milliseconds and rates under llama.cpp's names; the slowest of several answers counts."""
        times = [f.timings for f in self._finished]
        prompt_n = sum(f.prompt_tokens for f in self._prompts.values()) - self._cached_tokens
        predicted_n = sum(f.completion_tokens for f in self._finished)
        prompt_ms = 1000 * max((t.prompt_seconds for t in times), default=0.0)
        predicted_ms = 1000 * max((t.generate_seconds for t in times), default=0.0)
        return {
            "cache_n": self._cached_tokens,
            "prompt_n": prompt_n,
            "prompt_ms": round(prompt_ms, 3),
            "prompt_per_token_ms": _ratio(prompt_ms, prompt_n),
            "prompt_per_second": _ratio(1000 * prompt_n, prompt_ms),
            "predicted_n": predicted_n,
            "predicted_ms": round(predicted_ms, 3),
            "predicted_per_token_ms": _ratio(predicted_ms, predicted_n),
            "predicted_per_second": _ratio(1000 * predicted_n, predicted_ms),
            "draft_n": sum(t.draft_tokens for t in times),
            "draft_n_accepted": sum(t.draft_accepted for t in times),
            "queue_ms": round(1000 * max((t.queue_seconds for t in times), default=0.0), 3),
        }

    @property
    def _cached_tokens(self) -> int:
        return sum(f.cached_tokens for f in self._prompts.values())


def _ratio(numerator: float, denominator: float) -> float:
    return round(numerator / denominator, 3) if denominator > 0 else 0.0
