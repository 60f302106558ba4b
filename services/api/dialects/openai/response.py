"""OpenAI's complete responses: what chat and text completions have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from protos import engine_pb2
from services.api.dialects.openai.stream import FINISH_REASONS
from services.api.generation.usage import UsageCounter


class OpenAIResponse(ABC):
    """Collects the events of every answer; implements `streaming.responses.ResponseBuilder`."""

    object_name: ClassVar[str]

    def __init__(
        self, response_id: str, model: str, *, answer_count: int, usage: UsageCounter
    ) -> None:
        self._id = response_id
        self._model = model
        self._usage = usage
        self._texts: list[list[str]] = [[] for _ in range(answer_count)]
        self._reasons = ["stop"] * answer_count
        self._logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in range(answer_count)]

    @abstractmethod
    def choice(self, index: int, text: str) -> dict[str, Any]:
        """The fields of one choice other than `index` and `finish_reason`."""

    def add(self, event: engine_pb2.Event) -> None:
        """Add one event."""
        if event.HasField("delta"):
            self._texts[event.index].append(event.delta.text)
            self._logprobs[event.index].extend(event.delta.logprobs)
        elif event.HasField("finished"):
            self._usage.add(event.index, event.finished)
            self._reasons[event.index] = FINISH_REASONS.get(event.finished.reason, "stop")

    def build(self) -> dict[str, Any]:
        """The response object."""
        choices = [
            {"index": i, **self.choice(i, "".join(self._texts[i])), "finish_reason": reason}
            for i, reason in enumerate(self._reasons)
        ]
        return {
            "id": self._id,
            "object": self.object_name,
            "created": int(time.time()),
            "model": self._model,
            "choices": choices,
            "usage": self._usage.usage(),
            "timings": self._usage.timings(),
        }
