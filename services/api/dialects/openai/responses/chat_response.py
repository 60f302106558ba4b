"""Chat completions in OpenAI's shape, streamed and complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.api.dialects.openai.responses.complete_response import build_head, build_response
from services.api.dialects.openai.responses.logprobs_response import build_chat_logprobs
from services.api.dialects.openai.responses.stream import OpenAIStream
from services.api.generation.answers.accumulator import Answer, Call
from services.api.generation.answers.events import (
    FinishReason,
    PartEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from services.api.generation.answers.usage import UsageCounter


class ChatCompletionStream(OpenAIStream):
    """The chunks of a streamed chat completion.

    `has_functions`: calls are written in OpenAI's old form, `function_call`. `hides_thinking`: the
    thinking is left out.
    """

    object_name = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    no_text = b'"delta":{}'

    def __init__(
        self,
        response_id: str,
        model: str,
        *,
        answer_count: int,
        usage: UsageCounter,
        include_usage: bool,
        has_functions: bool = False,
        hides_thinking: bool = False,
    ) -> None:
        super().__init__(
            response_id,
            model,
            answer_count=answer_count,
            usage=usage,
            include_usage=include_usage,
        )
        self._has_functions = has_functions
        self._hides_thinking = hides_thinking

    def opening(self) -> bytes:
        """The role of every answer."""
        role = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"".join(
            b'%s{"index":%d,%s%s' % (self._head, index, role, self._tail)
            for index in range(len(self._before))
        )

    def part(self, part: PartEvent) -> bytes:
        """A chunk with more of the thinking, or of a call; a call's end has none."""
        if isinstance(part, ToolCallEnded):
            return b""
        if isinstance(part, ReasoningDelta):
            if self._hides_thinking:
                return b""
            return self.encode_delta(part.index, _build_reasoning(part.text))
        return self.encode_delta(part.index, self._build_call(part))

    def _build_call(self, part: ToolCallStarted | ToolCallDelta) -> dict[str, Any]:
        if isinstance(part, ToolCallDelta):
            function = {"arguments": part.fragment}
            head: dict[str, Any] = {"index": part.call}
        else:
            function = {"name": part.name, "arguments": ""}
            head = {"index": part.call, "id": part.id, "type": "function"}
        if self._has_functions:
            return {"function_call": function}
        return {"tool_calls": [{**head, "function": function}]}

    def name_reason(self, reason: FinishReason) -> str:
        """OpenAI's name, which differs in the old form."""
        return _name_reason(reason, has_functions=self._has_functions)

    def choice_with_logprobs(self, delta: TextDelta) -> dict[str, Any]:
        """One complete choice."""
        return {
            "index": delta.index,
            "delta": {"content": delta.text},
            "logprobs": build_chat_logprobs(delta.logprobs),
            "finish_reason": None,
        }


def build_chat_completion(
    response_id: str,
    model: str,
    answers: Sequence[Answer],
    usage: UsageCounter,
    *,
    has_functions: bool = False,
    hides_thinking: bool = False,
) -> dict[str, Any]:
    """A complete chat completion. The last two: as of ChatCompletionStream."""

    def build_choice(_: int, answer: Answer) -> dict[str, Any]:
        message = _build_message(answer, has_functions=has_functions)
        if answer.reasoning and not hides_thinking:
            message |= _build_reasoning(answer.reasoning)
        return {
            "message": message,
            "logprobs": build_chat_logprobs(answer.logprobs) if answer.logprobs else None,
            "finish_reason": _name_reason(answer.reason, has_functions=has_functions),
        }

    head = build_head(response_id, "chat.completion", model)
    return build_response(head, answers, usage, build_choice)


def _build_message(answer: Answer, *, has_functions: bool) -> dict[str, Any]:
    content = None if answer.calls and not answer.text else answer.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.calls and has_functions:
        message["function_call"] = _build_function(answer.calls[0])
    elif answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _build_function(call)}
            for call in answer.calls
        ]
    return message


def _build_function(call: Call) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def _build_reasoning(text: str) -> dict[str, Any]:
    # Clients read the one or the other: DeepSeek's name, and the one of newer servers.
    return {"reasoning_content": text, "reasoning": text}


def _name_reason(reason: FinishReason, *, has_functions: bool) -> str:
    if has_functions and reason is FinishReason.TOOL_CALLS:
        return "function_call"
    return reason.value
