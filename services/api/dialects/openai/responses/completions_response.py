"""Text completions in OpenAI's shape, streamed and complete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from statistics import fmean
from typing import Any

from services.api.dialects.openai.responses.complete_response import build_head, build_response
from services.api.dialects.openai.responses.logprobs_response import (
    build_completion_logprobs,
    clamp_logprob,
)
from services.api.dialects.openai.responses.stream import OpenAIStream
from services.api.generation.answers.accumulator import Answer
from services.api.generation.answers.events import PartEvent, TextDelta, TokenLogprob
from services.api.generation.answers.usage import UsageCounter


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

    def part(self, part: PartEvent) -> bytes:
        """Never called: a text completion is not taken apart."""
        raise AssertionError("a text completion has no parser")

    def choice_with_logprobs(self, delta: TextDelta) -> dict[str, Any]:
        """One complete choice; its text offsets continue those of the chunk before."""
        offset = self._lengths[delta.index]
        logprobs = build_completion_logprobs(delta.logprobs, offset=offset)
        self._lengths[delta.index] += sum(len(text) for text in logprobs["tokens"])
        return {
            "index": delta.index,
            "text": delta.text,
            "logprobs": logprobs,
            "finish_reason": None,
        }


def build_completion(
    response_id: str,
    model: str,
    answers: Sequence[Answer],
    usage: UsageCounter,
    *,
    echoes: Sequence[str | None],
    wants_logprobs: bool,
) -> dict[str, Any]:
    """A complete text completion. `echoes`: the prompt to repeat for each answer, None for none."""

    def build_choice(index: int, answer: Answer) -> dict[str, Any]:
        echo = echoes[index]
        return {
            "text": (echo or "") + answer.text,
            "logprobs": _build_logprobs(answer, echo) if wants_logprobs else None,
        }

    head = build_head(response_id, "text_completion", model)
    return build_response(head, answers, usage, build_choice)


def keep_best(answers: Sequence[Answer], *, of: int, kept: int) -> Sequence[Answer]:
    """Of the `of` answers to each prompt, the `kept` whose tokens are the likeliest on average."""
    if kept == of:
        return answers
    groups = (answers[start : start + of] for start in range(0, len(answers), of))
    return [
        answer
        for group in groups
        for answer in sorted(group, key=_mean_logprob, reverse=True)[:kept]
    ]


def _mean_logprob(answer: Answer) -> float:
    # An answer without a token comes last.
    return fmean([clamp_logprob(t.logprob) for t in answer.logprobs] or [clamp_logprob(-inf)])


def _build_logprobs(answer: Answer, echo: str | None) -> dict[str, Any]:
    if echo is None:
        return build_completion_logprobs(answer.logprobs, offset=0)
    # The prompt's first token has no probability: its text is what the other tokens leave.
    first = TokenLogprob(_cut_end(echo.encode(), answer.prompt_logprobs), 0.0)
    tokens = [first, *answer.prompt_logprobs, *answer.logprobs]
    return build_completion_logprobs(tokens, offset=0, unknown_count=1)


def _cut_end(text: bytes, tokens: Iterable[TokenLogprob]) -> bytes:
    """What is before the tokens; empty where they are no end of the text."""
    end = b"".join(token.text for token in tokens)
    # Token ids may make half a character, which is U+FFFD in the text.
    ends = (end, end.decode(errors="replace").encode())
    return next((text[: len(text) - len(each)] for each in ends if text.endswith(each)), b"")
