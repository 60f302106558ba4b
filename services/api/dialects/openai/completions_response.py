"""A text completion in OpenAI's shape: in chunks, and whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protos import engine_pb2
from services.api.dialects.openai.logprobs import completion_logprobs
from services.api.dialects.openai.response import OpenAIWhole
from services.api.dialects.openai.stream import OpenAIChunks
from services.api.generation.usage import Tally


class CompletionChunks(OpenAIChunks):
    """Streamed completions. `echoes`: what each answer opens with, empty for nothing."""

    object_name = "text_completion"
    before_text = b'"text":'
    after_text = b""
    no_text = b'"text":""'

    def __init__(
        self,
        answer_id: str,
        model: str,
        *,
        echoes: Sequence[str],
        tally: Tally,
        include_usage: bool,
    ) -> None:
        super().__init__(
            answer_id, model, answers=len(echoes), tally=tally, include_usage=include_usage
        )
        self._echoes = echoes
        self._lengths = [len(echo) for echo in echoes]

    def opening(self) -> bytes:
        """The echoes, where there are any."""
        return b"".join(self.text(index, echo) for index, echo in enumerate(self._echoes) if echo)

    def choice_with_logprobs(self, event: engine_pb2.Event) -> dict[str, Any]:
        """One choice, in full; offsets go on from chunk to chunk."""
        logprobs = completion_logprobs(event.delta.logprobs, offset=self._lengths[event.index])
        self._lengths[event.index] += sum(len(text) for text in logprobs["tokens"])
        return {
            "index": event.index,
            "text": event.delta.text,
            "logprobs": logprobs,
            "finish_reason": None,
        }


class WholeCompletion(OpenAIWhole):
    """Completions in one piece. `echoes`: for each answer the prompt to repeat, None for none.

    A prompt of token ids (an empty text here) is spelt out by its own log-probabilities.
    """

    object_name = "text_completion"

    def __init__(
        self,
        answer_id: str,
        model: str,
        *,
        echoes: Sequence[str | None],
        wants_logprobs: bool,
        tally: Tally,
    ) -> None:
        super().__init__(answer_id, model, answers=len(echoes), tally=tally)
        self._echoes = echoes
        self._wants_logprobs = wants_logprobs
        self._prompt_logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in echoes]

    def note(self, event: engine_pb2.Event) -> None:
        """Take in one event; the prompt's log-probabilities come with the end."""
        super().note(event)
        if event.HasField("finished"):
            self._prompt_logprobs[event.index] = list(event.finished.prompt_logprobs)

    def choice(self, index: int, text: str) -> dict[str, Any]:
        """The text after its echo, with log-probabilities where they were asked for."""
        return {
            "text": (self._echo(index) or "") + text,
            "logprobs": self._choice_logprobs(index) if self._wants_logprobs else None,
        }

    def _echo(self, index: int) -> str | None:
        echo = self._echoes[index]
        if echo == "":
            prompt = b"".join(token.text for token in self._prompt_logprobs[index])
            return prompt.decode(errors="replace")
        return echo

    def _choice_logprobs(self, index: int) -> dict[str, Any]:
        if self._echoes[index] is None:
            return completion_logprobs(self._logprobs[index], offset=0)
        tokens = [self._first_token(index), *self._prompt_logprobs[index], *self._logprobs[index]]
        return completion_logprobs(tokens, offset=0, unknown=1)

    def _first_token(self, index: int) -> engine_pb2.TokenLogprob:
        """The prompt's first token, which has no probability: what the others leave of the text."""
        others = b"".join(token.text for token in self._prompt_logprobs[index])
        text = (self._echoes[index] or "").encode().removesuffix(others)
        return engine_pb2.TokenLogprob(text=text)
