"""OpenAI's stream chunks. Only the text is encoded for every step; the rest once per request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec

from services.api.dialects.openai.responses.complete_response import build_head
from services.api.dialects.openai.responses.usage_response import build_timings, build_usage
from services.api.generation.answers.events import Finished, FinishReason, PartEvent, TextDelta
from services.api.generation.answers.usage import UsageCounter
from services.api.streaming import sse

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
        head = build_head(response_id, self.object_name, model)
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
    def choice_with_logprobs(self, delta: TextDelta) -> dict[str, Any]:
        """The choice of a delta that carries log-probabilities."""

    @abstractmethod
    def part(self, part: PartEvent) -> bytes:
        """A chunk with more of the thinking, or of a call."""

    def delta(self, delta: TextDelta) -> bytes:
        """A chunk with the new text; empty while the engine holds text back."""
        if delta.logprobs:
            return self._head + encode(self.choice_with_logprobs(delta)) + b"]" + self._tail
        return self.encode_text(delta.index, delta.text) if delta.text else b""

    def encode_text(self, index: int, text: str) -> bytes:
        """A chunk with text and nothing else."""
        return self._before[index] + encode(text) + self._after

    def finish(self, finished: Finished) -> bytes:
        """The last chunk of one answer."""
        choice = b'{"index":%d,%s,"logprobs":null,"finish_reason":"%s"}]'
        tail = self._tail
        if not self._include_usage and self._usage.is_complete:
            tail = b',"timings":' + encode(build_timings(self._usage)) + b"}" + sse.END
        reason = self.name_reason(finished.reason).encode()
        return self._head + choice % (finished.index, self.no_text, reason) + tail

    def name_reason(self, reason: FinishReason) -> str:
        """The `finish_reason` of a choice."""
        return reason.value

    def encode_delta(self, index: int, delta: dict[str, Any]) -> bytes:
        """A chunk with any other delta than text."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._head + encode(choice) + b"]" + self._tail

    def closing(self) -> bytes:
        """The usage chunk, if the client requested it."""
        if not self._include_usage:
            return b""
        usage, timings = encode(build_usage(self._usage)), encode(build_timings(self._usage))
        return self._head + b'],"usage":' + usage + b',"timings":' + timings + b"}" + sse.END
