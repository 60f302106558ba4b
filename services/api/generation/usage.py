"""What an answer cost: OpenAI's `usage`, and llama.cpp's `timings` beside it."""

from __future__ import annotations

from typing import Any

from protos import engine_pb2
from services.api.clients.generation_stream import Generation


class Tally:
    """Adds up the finishes of one generation. Prompts count once, however many answers they got."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._prompts: dict[int, engine_pb2.Finished] = {}
        self._finishes: list[engine_pb2.Finished] = []

    def add(self, index: int, finished: engine_pb2.Finished) -> None:
        """Answer `index` ended."""
        self._prompts.setdefault(self._generation.request_of(index), finished)
        self._finishes.append(finished)

    @property
    def is_complete(self) -> bool:
        """Every answer has ended."""
        return len(self._finishes) == self._generation.answers

    def usage(self) -> dict[str, Any]:
        """Tokens asked, of those cached, and answered."""
        prompt = sum(f.prompt_tokens for f in self._prompts.values())
        completion = sum(f.completion_tokens for f in self._finishes)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }

    def timings(self) -> dict[str, Any]:
        """Milliseconds and rates under llama.cpp's names; of several answers, the slowest counts."""
        times = [f.timings for f in self._finishes]
        prompt_n = sum(f.prompt_tokens for f in self._prompts.values()) - self._cached
        predicted_n = sum(f.completion_tokens for f in self._finishes)
        prompt_ms = 1000 * max((t.prompt_seconds for t in times), default=0.0)
        predicted_ms = 1000 * max((t.generate_seconds for t in times), default=0.0)
        return {
            "cache_n": self._cached,
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
    def _cached(self) -> int:
        return sum(f.cached_tokens for f in self._prompts.values())


def _ratio(amount: float, by: float) -> float:
    return round(amount / by, 3) if by > 0 else 0.0
