"""The pipeline from a request to the events of its answers, the same for every dialect.

open(request): resolve or pull the model -> render the prompt -> submit -> Generation
Generation:    batches of events -> usage, one log line, however it ends
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence

from services.api.access.principal import Principal
from services.api.clients.blocking_calls import BlockingCalls
from services.api.clients.engine import EngineClient
from services.api.clients.generation_stream import GenerationStream
from services.api.generation.answer_constraint import (
    AnswerConstraint,
    build_constraint,
    find_special_tokens,
)
from services.api.generation.answer_reader import EventReader
from services.api.generation.dialect_choice import DialectChoice
from services.api.generation.events import Finished, GenerationEvent
from services.api.generation.from_engine import EngineEvent, read_events
from services.api.generation.request import GenerationRequest
from services.api.generation.request_checks import check_request
from services.api.generation.time_limits import limit_keep_alive, subtract_elapsed
from services.api.generation.to_engine import Prompt, build_prompt, build_submit, read_end
from services.api.generation.usage import UsageCounter
from services.api.models.pull_on_demand import PullOnDemand
from services.api.parsing.parser_choice import MakeParser, choose_parser, find_thinking
from services.api.prompts.render import Conversation, PromptRenderer
from services.shared.errors import ContextLengthExceeded, DeadlineExceeded, SpindllError
from services.shared.store.manifest import Manifest

logger = logging.getLogger(__name__)

_RENDER_THREADS = 2
_MAX_RENDERS = 1024
_SHARED_TENANT = "all"


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
    ) -> None:
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
            if isinstance(error, ContextLengthExceeded):
                error.param = self._request.prompt_field
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """What a request needs besides its options. `make_parser`: None where answers are plain."""

    prompts: Sequence[Prompt]
    constraint: AnswerConstraint | None = None
    make_parser: MakeParser | None = None


class GenerationService:
    """Opens the generations of one worker.

    `timeout_seconds`: the service's own limit; 0: none. `shares_tenant`: all principals are one
    tenant, so that what one's prompts computed is used for the others' too.
    """

    def __init__(
        self,
        models: PullOnDemand,
        prompts: PromptRenderer,
        engine: EngineClient,
        *,
        timeout_seconds: float,
        shares_tenant: bool,
    ) -> None:
        self._models = models
        self._prompts = prompts
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._shares_tenant = shares_tenant
        self._dialects = DialectChoice(prompts)
        self._renders = BlockingCalls("render", threads=_RENDER_THREADS, max_calls=_MAX_RENDERS)

    async def open(self, request: GenerationRequest) -> Generation:
        """Start to answer a request; the caller closes the Generation.

        Raises the errors of the model's name, of the prompt and of the engine's connection, and
        DeadlineExceeded; what the engine refuses is raised by the Generation.
        """
        started_at = time.perf_counter()
        check_request(request)
        limited = self._apply_limits(request)
        try:
            async with asyncio.timeout(limited.deadline_seconds):
                manifest = await self._models.resolve(request.model, request.principal)
                prepared = await self._prepare(manifest, request)
        except TimeoutError:
            raise DeadlineExceeded("the request's deadline passed before it was prepared") from None
        submit = build_submit(
            subtract_elapsed(limited, started_at),
            prepared.prompts,
            prepared.constraint,
            model=manifest.name,
            tenant=self.find_tenant(request.principal),
        )
        stream = await self._engine.generate(submit)
        return Generation(
            request,
            stream,
            model=manifest.name,
            make_parser=prepared.make_parser,
            started_at=started_at,
        )

    async def _prepare(self, manifest: Manifest, request: GenerationRequest) -> _Prepared:
        prompt = request.prompt
        if not isinstance(prompt, Conversation):
            output = request.structured_output
            return _Prepared(
                [build_prompt(each) for each in prompt],
                None if output is None else AnswerConstraint(output),
            )
        return await self._renders.run(
            lambda: self._render(manifest, request, prompt), principal=request.principal.id
        )

    def _render(
        self, manifest: Manifest, request: GenerationRequest, conversation: Conversation
    ) -> _Prepared:
        prompt = self._prompts.render(manifest, conversation)
        template = manifest.description.chat_template or ""
        dialect = self._dialects.choose(manifest)
        end = read_end(prompt)
        continues = conversation.continue_final_message
        prefill = conversation.messages[-1]["content"] if continues else None
        constraint = build_constraint(
            request,
            conversation,
            dialect,
            find_thinking(template, end, prefill),
            find_special_tokens(manifest.description),
        )
        is_structured = constraint is not None and constraint.output is request.structured_output
        make_parser = choose_parser(
            template,
            prompt=end,
            prefill=prefill,
            tools=() if is_structured else conversation.tools or (),  # its answers are no calls
            separates_reasoning=request.separates_reasoning,
            dialect=dialect,
        )
        return _Prepared([prompt], constraint, make_parser)

    def find_tenant(self, principal: Principal) -> str:
        """Whose computed prompts a principal uses."""
        return _SHARED_TENANT if self._shares_tenant else principal.tenant or principal.id

    def _apply_limits(self, request: GenerationRequest) -> GenerationRequest:
        deadlines = [s for s in (request.deadline_seconds, self._timeout_seconds) if s]
        return dataclasses.replace(
            request,
            deadline_seconds=min(deadlines, default=None),
            keep_alive_seconds=limit_keep_alive(request.keep_alive_seconds, request.principal.role),
        )
