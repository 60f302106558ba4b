"""Chat completions in OpenAI's shape, streamed and complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.api.dialects.openai.logprobs_response import build_chat_logprobs
from services.api.dialects.openai.response import build_head, build_response
from services.api.dialects.openai.stream import OpenAIStream
from services.api.generation.accumulator import Answer
from services.api.generation.events import TextDelta
from services.api.generation.usage import UsageCounter


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

    def choice_with_logprobs(self, delta: TextDelta) -> dict[str, Any]:
        """One complete choice."""
        return {
            "index": delta.index,
            "delta": {"content": delta.text},
            "logprobs": build_chat_logprobs(delta.logprobs),
            "finish_reason": None,
        }


def build_chat_completion(
    response_id: str, model: str, answers: Sequence[Answer], usage: UsageCounter
) -> dict[str, Any]:
    """A complete chat completion."""
    head = build_head(response_id, "chat.completion", model)
    return build_response(head, answers, usage, _build_choice)


def _build_choice(_: int, answer: Answer) -> dict[str, Any]:
    return {
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": build_chat_logprobs(answer.logprobs) if answer.logprobs else None,
    }
