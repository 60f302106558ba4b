"""OpenAI's stream chunks. Only the text is encoded for every step; the rest once per request."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec

from protos import engine_pb2
from services.api.generation.usage import UsageCounter
from services.api.streaming import sse

FINISH_REASONS = {
    engine_pb2.FINISH_REASON_STOP: "stop",
    engine_pb2.FINISH_REASON_LENGTH: "length",
}

encode = msgspec.json.encode


class OpenAIStream(ABC):
    """What chat and text completions have in common; implements `StreamEncoder` of responses.py.

    The timings are in the last chunk: the usage chunk if the client requested one, else the chunk
    that ends the last answer.
    """

    object_name: ClassVar[str]
    before_text: ClassVar[bytes]  # the part of a choice before its text
    after_text: ClassVar[bytes]
    no_text: ClassVar[bytes]

    def __init__(
        self,
        response_id: str,
        model: str,
        *,
        answer_count: int,
        usage: UsageCounter,
        include_usage: bool,
    ) -> None:
        head = {
            "id": response_id,
            "object": self.object_name,
            "created": int(time.time()),
            "model": model,
        }
        self._head = sse.DATA + encode(head)[:-1] + b',"choices":['
        self._tail = (b',"usage":null}' if include_usage else b"}") + sse.END
        self._usage = usage
        self._include_usage = include_usage
        self._before = [
            b'%s{"index":%d,%s' % (self._head, index, self.before_text)
            for index in range(answer_count)
        ]
        self._after = self.after_text + b',"logprobs":null,"finish_reason":null}]' + self._tail

    @abstractmethod
    def opening(self) -> bytes:
        """What every answer begins with."""

    @abstractmethod
    def choice_with_logprobs(self, event: engine_pb2.Event) -> dict[str, Any]:
        """The choice of a delta that carries log-probabilities."""

    def delta(self, event: engine_pb2.Event) -> bytes:
        """A chunk with the new text; empty while the engine holds text back."""
        delta = event.delta
        if delta.logprobs:
            return self._head + encode(self.choice_with_logprobs(event)) + b"]" + self._tail
        return self.encode_text(event.index, delta.text) if delta.text else b""

    def encode_text(self, index: int, text: str) -> bytes:
        """A chunk with text and nothing else."""
        return self._before[index] + encode(text) + self._after

    def finish(self, event: engine_pb2.Event) -> bytes:
        """The last chunk of one answer."""
        self._usage.add(event.index, event.finished)
        reason = FINISH_REASONS.get(event.finished.reason, "stop").encode()
        choice = b'{"index":%d,%s,"logprobs":null,"finish_reason":"%s"}]'
        tail = self._tail
        if not self._include_usage and self._usage.is_complete:
            tail = b',"timings":' + encode(self._usage.timings()) + b"}" + sse.END
        return self._head + choice % (event.index, self.no_text, reason) + tail

    def closing(self) -> bytes:
        """The usage chunk, if the client requested it."""
        if not self._include_usage:
            return b""
        usage, timings = encode(self._usage.usage()), encode(self._usage.timings())
        return self._head + b'],"usage":' + usage + b',"timings":' + timings + b"}" + sse.END
