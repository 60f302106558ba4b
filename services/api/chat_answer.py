"""A chat answer in OpenAI's shape: in chunks, and whole."""

from __future__ import annotations

import time
from typing import Any

from protos import engine_pb2
from services.api.chunks import FINISH_REASONS, OpenAIChunks
from services.api.logprobs import chat_logprobs
from services.api.usage import Tally


class ChatChunks(OpenAIChunks):
    """Streamed chat answers."""

    object_name = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    no_text = b'"delta":{}'

    def opening(self) -> bytes:
        """The role of every answer."""
        role = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"".join(
            b'%s{"index":%d,%s%s' % (self._head, index, role, self._tail)
            for index in range(len(self._before))
        )

    def choice_with_logprobs(self, event: engine_pb2.Event) -> dict[str, Any]:
        """One choice, in full."""
        return {
            "index": event.index,
            "delta": {"content": event.delta.text},
            "logprobs": chat_logprobs(event.delta.logprobs),
            "finish_reason": None,
        }


class WholeChat:
    """Chat answers in one piece."""

    def __init__(self, answer_id: str, model: str, *, answers: int, tally: Tally) -> None:
        self._id = answer_id
        self._model = model
        self._tally = tally
        self._texts: list[list[str]] = [[] for _ in range(answers)]
        self._logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in range(answers)]
        self._reasons = ["stop"] * answers

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
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [self._choice(index) for index in range(len(self._texts))],
            "usage": self._tally.usage(),
            "timings": self._tally.timings(),
        }

    def _choice(self, index: int) -> dict[str, Any]:
        logprobs = self._logprobs[index]
        content = "".join(self._texts[index])
        return {
            "index": index,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": chat_logprobs(logprobs) if logprobs else None,
            "finish_reason": self._reasons[index],
        }
