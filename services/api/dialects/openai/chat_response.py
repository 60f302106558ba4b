"""Chat completions in OpenAI's shape, streamed and complete."""

from __future__ import annotations

from typing import Any

from protos import engine_pb2
from services.api.dialects.openai.logprobs_response import build_chat_logprobs
from services.api.dialects.openai.response import OpenAIResponse
from services.api.dialects.openai.stream import OpenAIStream


class ChatCompletionStream(OpenAIStream):
    """The chunks of a streamed chat completion."""

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
        """One complete choice."""
        return {
            "index": event.index,
            "delta": {"content": event.delta.text},
            "logprobs": build_chat_logprobs(event.delta.logprobs),
            "finish_reason": None,
        }


class ChatCompletionResponse(OpenAIResponse):
    """A complete chat completion."""

    object_name = "chat.completion"

    def choice(self, index: int, text: str) -> dict[str, Any]:
        """The message, with its log-probabilities where they were requested."""
        logprobs = self._logprobs[index]
        return {
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": build_chat_logprobs(logprobs) if logprobs else None,
        }
