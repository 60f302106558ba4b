"""Text completions in OpenAI's shape, streamed and complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protos import engine_pb2
from services.api.dialects.openai.logprobs_response import build_completion_logprobs
from services.api.dialects.openai.response import OpenAIResponse
from services.api.dialects.openai.stream import OpenAIStream
from services.api.generation.usage import UsageCounter


class CompletionStream(OpenAIStream):
    """The chunks of a streamed completion. `echoes`: what each answer begins with, may be empty."""

    object_name = "text_completion"
    before_text = b'"text":'
    after_text = b""
    no_text = b'"text":""'

    def __init__(
        self,
        response_id: str,
        model: str,
        *,
        echoes: Sequence[str],
        usage: UsageCounter,
        include_usage: bool,
    ) -> None:
        super().__init__(
            response_id, model, answer_count=len(echoes), usage=usage, include_usage=include_usage
        )
        self._echoes = echoes
        self._lengths = [len(echo) for echo in echoes]

    def opening(self) -> bytes:
        """The echoes, where there are any."""
        return b"".join(
            self.encode_text(index, echo) for index, echo in enumerate(self._echoes) if echo
        )

    def choice_with_logprobs(self, event: engine_pb2.Event) -> dict[str, Any]:
        """One complete choice; its text offsets continue those of the chunk before."""
        offset = self._lengths[event.index]
        logprobs = build_completion_logprobs(event.delta.logprobs, offset=offset)
        self._lengths[event.index] += sum(len(text) for text in logprobs["tokens"])
        return {
            "index": event.index,
            "text": event.delta.text,
            "logprobs": logprobs,
            "finish_reason": None,
        }


class CompletionResponse(OpenAIResponse):
    """A complete text completion. `echoes`: the prompt to repeat for each answer, None for none.

    The text of a prompt that was given as token ids (an empty echo here) is taken from the log-
    probabilities of the prompt.
    """

    object_name = "text_completion"

    def __init__(
        self,
        response_id: str,
        model: str,
        *,
        echoes: Sequence[str | None],
        wants_logprobs: bool,
        usage: UsageCounter,
    ) -> None:
        super().__init__(response_id, model, answer_count=len(echoes), usage=usage)
        self._echoes = echoes
        self._wants_logprobs = wants_logprobs
        self._prompt_logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in echoes]

    def add(self, event: engine_pb2.Event) -> None:
        """Add one event; the last event of an answer carries the prompt's log-probabilities."""
        super().add(event)
        if event.HasField("finished"):
            self._prompt_logprobs[event.index] = list(event.finished.prompt_logprobs)

    def choice(self, index: int, text: str) -> dict[str, Any]:
        """The text after its echo, with log-probabilities where they were requested."""
        return {
            "text": (self._echo(index) or "") + text,
            "logprobs": self._build_logprobs(index) if self._wants_logprobs else None,
        }

    def _echo(self, index: int) -> str | None:
        echo = self._echoes[index]
        if echo == "":
            prompt = b"".join(token.text for token in self._prompt_logprobs[index])
            return prompt.decode(errors="replace")
        return echo

    def _build_logprobs(self, index: int) -> dict[str, Any]:
        if self._echoes[index] is None:
            return build_completion_logprobs(self._logprobs[index], offset=0)
        tokens = [self._first_token(index), *self._prompt_logprobs[index], *self._logprobs[index]]
        return build_completion_logprobs(tokens, offset=0, unknown_count=1)

    def _first_token(self, index: int) -> engine_pb2.TokenLogprob:
        """The prompt's first token, which has no probability: the text before the other tokens."""
        others = b"".join(token.text for token in self._prompt_logprobs[index])
        text = (self._echoes[index] or "").encode().removesuffix(others)
        return engine_pb2.TokenLogprob(text=text)
