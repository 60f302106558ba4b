"""The events of one request, from its submission to its settlement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from services.api.cache_reports.recorder import Recording
from services.api.cache_reports.report import PromptUse
from services.api.clients.generation_stream import GenerationStream
from services.api.generation.answers.answer_reader import EventReader
from services.api.generation.answers.events import Finished, GenerationEvent, Started
from services.api.generation.answers.from_engine import EngineEvent, read_events
from services.api.generation.answers.usage import UsageCounter
from services.api.generation.requests.generation_request import GenerationRequest, OutputFormat
from services.api.parsing.parser_choice import MakeParser
from services.api.prompts.render import Conversation
from services.shared.errors import ContextLengthExceeded, SpindllError

logger = logging.getLogger(__name__)


class Generation:
    """The events of one request: `async for events in generation`, in batches.

    A batch is what arrived since the last one; it is empty after `wake()`. Without a parser, it has
    at most one TextDelta per answer. `close()` must be called, and may be called twice: it cancels
    what still runs, and writes the log line.
    """

    def __init__(
        self,
        request: GenerationRequest,
        stream: GenerationStream,
        *,
        model: str,
        make_parser: MakeParser | None,
        started_at: float,
        on_started: Callable[[Started], None],
        recording: Recording | None = None,
    ) -> None:
        """`recording`: where a report is written about the prompt."""
        self.answer_count = request.answer_count
        self.usage = UsageCounter(
            answers_per_prompt=request.answers_per_prompt, answer_count=request.answer_count
        )
        self._request = request
        self._has_logprobs = request.top_logprobs is not None
        self._reader = self._make_reader(make_parser)
        self._model = model
        self._stream = stream
        self._started_at = started_at
        self._recording = recording
        self._on_started = on_started
        self._outcome = "cancelled"
        self._is_settled = False

    def _make_reader(self, make_parser: MakeParser | None) -> EventReader | None:
        if make_parser is None:
            return None
        return EventReader(
            self.answer_count,
            make_parser,
            with_logprobs=self._has_logprobs,
            is_single_call=not self._request.parallel_tool_calls,
        )

    @property
    def seconds(self) -> float:
        """Since the request was opened."""
        return time.perf_counter() - self._started_at

    @property
    def is_over(self) -> bool:
        """Whether the next batch comes at once, and is the last."""
        return self._stream.is_over or self._is_cut

    @property
    def _is_cut(self) -> bool:
        return self._reader is not None and self._reader.is_cut

    @property
    def is_abandoned(self) -> bool:
        """Whether the client has disconnected."""
        return self._stream.is_abandoned

    def __aiter__(self) -> Generation:
        """The batches of events."""
        return self

    async def __anext__(self) -> list[GenerationEvent]:
        """The next batch; raises the error that ended the request."""
        events: list[GenerationEvent] = []
        while not events:
            taken = await self._take()
            if not taken:
                return []
            events = self._read(taken)  # none where the parser holds all text back
        for event in events:
            if isinstance(event, Finished):
                self.usage.add(event)
            elif isinstance(event, Started):
                self._on_started(event)
                if self._recording is not None:
                    self._recording.begin(_read_use(event))
        if self._is_cut:
            self._stream.close()
        return events

    async def _take(self) -> list[EngineEvent]:
        """The engine's next events; none after a wake-up."""
        stream = self._stream
        if self._is_cut:
            self._outcome = "finished"
            raise StopAsyncIteration
        try:
            taken = await stream.take()
        except SpindllError as error:
            self._outcome = error.code
            _name_field(error, self._request)
            raise
        if not taken and stream.is_over:
            self._outcome = "finished"
            raise StopAsyncIteration
        return taken

    def _read(self, taken: list[EngineEvent]) -> list[GenerationEvent]:
        if self._reader is None:
            return read_events(taken, with_logprobs=self._has_logprobs)
        return self._reader.read(taken)

    def wake(self) -> None:
        """Let the task that waits for a batch get an empty one."""
        self._stream.wake()

    def abandon(self) -> None:
        """Cancel because the client has disconnected; the next batch then raises Cancelled."""
        self._stream.abandon()

    def close(self) -> None:
        """Cancel what still runs, and settle."""
        self._stream.close()
        if not self._is_settled:
            self._is_settled = True
            self._log()
            if self._recording is not None:
                usage = self.usage
                self._recording.finish(usage.prompt_use, prompt_seconds=usage.prompt_seconds)

    def _log(self) -> None:
        usage = self.usage
        logger.info(
            "generation",
            extra={
                "id": self._request.id,
                "model": self._model,
                "principal": self._request.principal.id,
                "outcome": "finished" if usage.is_complete else self._outcome,
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
                "queue_seconds": round(usage.queue_seconds, 4),
                "seconds": round(self.seconds, 4),
            },
        )


def _name_field(error: SpindllError, request: GenerationRequest) -> None:
    """Name the client's field in an error of the engine, which knows only its own."""
    output, prompt = request.structured_output, request.prompt
    if isinstance(error, ContextLengthExceeded):
        error.param = request.prompt_field
    elif output is not None and error.param == output.format.value:
        error.param = output.field
    elif error.param == OutputFormat.LARK.value and isinstance(prompt, Conversation):
        # A grammar of calls, which the client has not written.
        reason = error.message.partition("failed to compile JSON schema: ")[2]
        error.param = prompt.tools_field
        error.message = "the parameters of a function cannot be enforced" + (
            f": {reason.splitlines()[0]}" if reason else ""
        )


def _read_use(started: Started) -> PromptUse:
    return PromptUse(
        prompt_tokens=started.prompt_tokens,
        cached_tokens=started.cached_tokens,
        stored_tokens=started.stored_tokens,
        disk_tokens=started.disk_tokens,
    )
