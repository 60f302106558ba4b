"""OpenAI's answers in one piece: what chat and text completions have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from protos import engine_pb2
from services.api.dialects.openai.stream import FINISH_REASONS
from services.api.generation.usage import Tally


class OpenAIWhole(ABC):
    """Gathers the events of every answer; see answering.Whole for the methods' duties."""

    object_name: ClassVar[str]

    def __init__(self, answer_id: str, model: str, *, answers: int, tally: Tally) -> None:
        self._id = answer_id
        self._model = model
        self._tally = tally
        self._texts: list[list[str]] = [[] for _ in range(answers)]
        self._reasons = ["stop"] * answers
        self._logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in range(answers)]

    @abstractmethod
    def choice(self, index: int, text: str) -> dict[str, Any]:
        """What the dialect says of one answer, its index and end apart."""

    def note(self, event: engine_pb2.Event) -> None:
        """Take in one event."""
        if event.HasField("delta"):
            self._texts[event.index].append(event.delta.text)
            self._logprobs[event.index].extend(event.delta.logprobs)
        elif event.HasField("finished"):
            self._tally.add(event.index, event.finished)
            self._reasons[event.index] = FINISH_REASONS.get(event.finished.reason, "stop")

    def body(self) -> dict[str, Any]:
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
            "usage": self._tally.usage(),
            "timings": self._tally.timings(),
        }
