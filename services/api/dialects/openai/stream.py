"""OpenAI's stream chunks, cheap: only the text is encoded for every step, the rest once a request."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec

from protos import engine_pb2
from services.api.generation.usage import Tally

FINISH_REASONS = {
    engine_pb2.FINISH_REASON_STOP: "stop",
    engine_pb2.FINISH_REASON_LENGTH: "length",
}

encode = msgspec.json.encode


class OpenAIChunks(ABC):
    """What chat and text completions have in common; see sse.Chunks for the methods' duties.

    The timings are on the very last chunk there is, the usage chunk where one was asked for.
    """

    object_name: ClassVar[str]
    before_text: ClassVar[bytes]  # of a choice, up to the text
    after_text: ClassVar[bytes]
    no_text: ClassVar[bytes]

    def __init__(
        self, answer_id: str, model: str, *, answers: int, tally: Tally, include_usage: bool
    ) -> None:
        head = {
            "id": answer_id,
            "object": self.object_name,
            "created": int(time.time()),
            "model": model,
        }
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._tally = tally
        self._include_usage = include_usage
        self._before = [
            b'%s{"index":%d,%s' % (self._head, index, self.before_text) for index in range(answers)
        ]
        self._after = self.after_text + b',"logprobs":null,"finish_reason":null}]' + self._tail

    @abstractmethod
    def opening(self) -> bytes:
        """What every answer begins with."""

    @abstractmethod
    def choice_with_logprobs(self, event: engine_pb2.Event) -> dict[str, Any]:
        """The choice of a delta that carries log-probabilities."""

    def delta(self, event: engine_pb2.Event) -> bytes:
        """More text; nothing while it is still held back."""
        delta = event.delta
        if delta.logprobs:
            return self._head + encode(self.choice_with_logprobs(event)) + b"]" + self._tail
        return self.text(event.index, delta.text) if delta.text else b""

    def text(self, index: int, text: str) -> bytes:
        """A chunk of plain text."""
        return self._before[index] + encode(text) + self._after

    def finish(self, event: engine_pb2.Event) -> bytes:
        """The last chunk of one answer."""
        self._tally.add(event.index, event.finished)
        reason = FINISH_REASONS.get(event.finished.reason, "stop").encode()
        choice = b'{"index":%d,%s,"logprobs":null,"finish_reason":"%s"}]'
        tail = self._tail
        if not self._include_usage and self._tally.is_complete:
            tail = b',"timings":' + encode(self._tally.timings()) + b"}\n\n"
        return self._head + choice % (event.index, self.no_text, reason) + tail

    def closing(self) -> bytes:
        """The usage chunk, when it was asked for."""
        if not self._include_usage:
            return b""
        usage, timings = encode(self._tally.usage()), encode(self._tally.timings())
        return self._head + b'],"usage":' + usage + b',"timings":' + timings + b"}\n\n"
