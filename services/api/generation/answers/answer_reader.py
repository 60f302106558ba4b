"""Takes the text of answers apart: the engine's events in, the pipeline's events out.

A token counts as thinking when the text that it adds is thinking. One that adds nothing yet (a
mark, a blank line, the beginning of a call) counts as what follows it; at the end of the answer, as
what came before. Where one delta holds both kinds, because a client was slow or tokens were
guessed, its tokens are split by characters. The log-probabilities of an answer are those of its
content, as in OpenAI's API: those of tokens that add only thinking or calls are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from services.api.generation.answers.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from services.api.generation.answers.from_engine import EngineEvent, read_each
from services.api.parsing.parts import (
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    OutputParser,
    Part,
    Reasoning,
)


class AnswerReader:
    """Reads one answer. With `is_single_call`, nothing follows the first call."""

    def __init__(self, index: int, parser: OutputParser, *, is_single_call: bool) -> None:
        self.is_cut = False  # the first call is complete, and was to be the only one
        self.is_finished = False
        self._tokens = 0
        self._index = index
        self._parser = parser
        self._is_single_call = is_single_call
        self._reasoning_tokens = 0
        self._undecided_tokens = 0
        self._undecided_logprobs: list[TokenLogprob] = []
        self._last: Part | None = None
        self._whole_calls = 0
        self._open_calls = 0  # that broke off, or are not complete yet

    def read(self, delta: TextDelta, tokens: int) -> list[GenerationEvent]:
        """The events of more text, of so many tokens."""
        if self.is_cut:
            return []
        self._tokens += tokens
        self._undecided_tokens += tokens
        self._undecided_logprobs += delta.logprobs
        return self._take(self._parser.feed(delta.text))

    def finish(self, finished: Finished) -> list[GenerationEvent]:
        """The rest of the text, and the end."""
        self.is_finished = True
        events = [] if self.is_cut else self._take(self._parser.finish())
        if isinstance(self._last, Reasoning):
            self._reasoning_tokens += self._undecided_tokens
        elif isinstance(self._last, Content) and self._undecided_logprobs:
            events.append(TextDelta(self._index, "", tuple(self._undecided_logprobs)))
        # A client may run all calls of an answer that ends with calls.
        is_whole = self._whole_calls > 0 and not self._open_calls
        is_called = is_whole and finished.reason is FinishReason.STOP
        reason = FinishReason.TOOL_CALLS if is_called or self.is_cut else finished.reason
        end = msgspec.structs.replace(
            finished, reason=reason, reasoning_tokens=self._reasoning_tokens
        )
        return [*events, end]

    def cut(self, started: Started) -> Finished:
        """The end after the only call, with what is known here; the engine is not asked."""
        self.is_finished = True
        return Finished(
            index=self._index,
            reason=FinishReason.TOOL_CALLS,
            prompt_tokens=started.prompt_tokens,
            cached_tokens=started.cached_tokens,
            completion_tokens=self._tokens,
            reasoning_tokens=self._reasoning_tokens,
        )

    def _take(self, parts: Sequence[Part]) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        logprobs = self._settle(parts)
        for part in parts:
            if isinstance(part, Content):
                events.append(TextDelta(self._index, part.text, logprobs))
                logprobs = ()
            else:
                events.append(self._convert(part))
            self._open_calls += isinstance(part, CallStarted)
            if isinstance(part, CallEnded):
                self._whole_calls += 1
                self._open_calls -= 1
                if self._is_single_call:
                    self.is_cut = True
                    break
        return events

    def _settle(self, parts: Sequence[Part]) -> tuple[TokenLogprob, ...]:
        """Count the undecided tokens, if there are parts; the log-probabilities of the content."""
        if not parts:
            return ()
        thought = sum(len(part.text) for part in parts if isinstance(part, Reasoning))
        if thought:
            share = thought / sum(map(_count_chars, parts))
            self._reasoning_tokens += round(self._undecided_tokens * share)
        self._last = parts[-1]
        has_content = any(isinstance(part, Content) for part in parts)
        logprobs = tuple(self._undecided_logprobs) if has_content else ()
        self._undecided_tokens, self._undecided_logprobs = 0, []
        return logprobs

    def _convert(self, part: Part) -> GenerationEvent:
        match part:
            case Reasoning():
                return ReasoningDelta(self._index, part.text)
            case Content():
                return TextDelta(self._index, part.text)
            case CallStarted():
                return ToolCallStarted(self._index, part.index, part.id, part.name)
            case CallArguments():
                return ToolCallDelta(self._index, part.index, part.fragment)
            case CallEnded():
                return ToolCallEnded(self._index, part.index)


class EventReader:
    """Reads the events of all answers of one generation.

    Once every answer has had its only call, `is_cut` is true and the ends of the answers are made
    here: what the engine still writes is of no use.
    """

    def __init__(
        self,
        answer_count: int,
        make_parser: Callable[[], OutputParser],
        *,
        with_logprobs: bool,
        is_single_call: bool,
    ) -> None:
        self.is_cut = False
        self._answers = [
            AnswerReader(index, make_parser(), is_single_call=is_single_call)
            for index in range(answer_count)
        ]
        self._with_logprobs = with_logprobs
        self._started = Started()

    def read(self, taken: Sequence[EngineEvent]) -> list[GenerationEvent]:
        """The events in order."""
        events: list[GenerationEvent] = []
        for event, tokens in read_each(taken, with_logprobs=self._with_logprobs):
            if isinstance(event, TextDelta):
                events += self._answers[event.index].read(event, tokens)
            elif isinstance(event, Finished):
                events += self._answers[event.index].finish(event)
            else:
                events.append(event)
            if isinstance(event, Started):
                self._started = event
        running = [answer for answer in self._answers if not answer.is_finished]
        if running and all(answer.is_cut for answer in running):
            self.is_cut = True
            events += [answer.cut(self._started) for answer in running]
        return events


def _count_chars(part: Part) -> int:
    match part:
        case Reasoning() | Content():
            return len(part.text)
        case CallStarted():
            return len(part.name)
        case CallArguments():
            return len(part.fragment)
        case CallEnded():
            return 0
