"""A text completion in OpenAI's shape: in chunks, and whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from protos import engine_pb2
from services.api.chunks import FINISH_REASONS, OpenAIChunks
from services.api.logprobs import completion_logprobs
from services.api.usage import Tally


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


class WholeCompletion:
    """Completions in one piece. `echoes`: for each answer the prompt to repeat, None for none.

    A prompt of token ids (an empty text here) is spelt out by its own log-probabilities.
    """

    def __init__(
        self,
        answer_id: str,
        model: str,
        *,
        echoes: Sequence[str | None],
        wants_logprobs: bool,
        tally: Tally,
    ) -> None:
        self._id = answer_id
        self._model = model
        self._echoes = echoes
        self._wants_logprobs = wants_logprobs
        self._tally = tally
        self._texts: list[list[str]] = [[] for _ in echoes]
        self._logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in echoes]
        self._prompt_logprobs: list[list[engine_pb2.TokenLogprob]] = [[] for _ in echoes]
        self._reasons = ["stop"] * len(echoes)

    def note(self, event: engine_pb2.Event) -> None:
        """Take in one event."""
        if event.HasField("delta"):
            self._texts[event.index].append(event.delta.text)
            self._logprobs[event.index].extend(event.delta.logprobs)
        elif event.HasField("finished"):
            self._tally.add(event.index, event.finished)
            self._prompt_logprobs[event.index] = list(event.finished.prompt_logprobs)
            self._reasons[event.index] = FINISH_REASONS.get(event.finished.reason, "stop")

    def body(self) -> dict[str, Any]:
        """The response object."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [self._choice(i) for i in range(len(self._echoes))],
            "usage": self._tally.usage(),
            "timings": self._tally.timings(),
        }

    def _choice(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "text": (self._echo(index) or "") + "".join(self._texts[index]),
            "logprobs": self._choice_logprobs(index) if self._wants_logprobs else None,
            "finish_reason": self._reasons[index],
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
