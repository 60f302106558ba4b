"""The pipeline from a request to the events of its answers, the same for every dialect.

open(request): resolve or pull the model -> render the prompt -> submit -> Generation
Generation:    batches of events -> usage, one log line, however it ends
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from services.api.access.principal import Principal
from services.api.cache_reports.fingerprint import Prompt as SourcePrompt
from services.api.cache_reports.recorder import CacheReports, Recording
from services.api.clients.blocking_calls import BlockingCalls
from services.api.clients.engine import EngineClient
from services.api.generation.answers.events import Started
from services.api.generation.generation import Generation
from services.api.generation.requests.answer_constraint import (
    AnswerConstraint,
    build_constraint,
    find_special_tokens,
)
from services.api.generation.requests.dialect_choice import DialectChoice
from services.api.generation.requests.generation_request import (
    GenerationRequest,
    Infill,
    TextOrTokens,
)
from services.api.generation.requests.request_checks import check_request, check_size
from services.api.generation.requests.thinking_budget import ThinkingBudget, build_budget
from services.api.generation.requests.time_limits import (
    limit_keep_alive,
    limit_time,
    subtract_elapsed,
)
from services.api.generation.requests.to_engine import (
    Prompt,
    build_create_prefix,
    build_prompt,
    build_submit,
    build_text,
    build_tokenize,
    read_end,
    read_text,
)
from services.api.models.pull_on_demand import PullOnDemand
from services.api.parsing.parser_choice import MakeParser, choose_parser, find_thinking
from services.api.prompts.canonical import canonicalise
from services.api.prompts.render import Conversation, PromptRenderer
from services.shared.errors import DeadlineExceeded
from services.shared.logs import request_id
from services.shared.store.manifest import Manifest

_RENDER_THREADS = 2
_MAX_RENDERS = 1024
_SHARED_TENANT = "all"


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """What a request needs besides its options. `make_parser`: None where answers are plain."""

    prompts: Sequence[Prompt]
    source: SourcePrompt  # what they were made of
    constraint: AnswerConstraint | None = None
    thinking: ThinkingBudget | None = None
    make_parser: MakeParser | None = None


class GenerationService:
    """Opens the generations of one worker.

    `timeout_seconds`: the service's own limit; 0: none. `shares_tenant`: all principals are one
    tenant, so that what one's prompts computed is used for the others' too. `canonicalises`: see
    prompts/canonical.py. `reports`: where reports about prompts go.
    """

    def __init__(
        self,
        models: PullOnDemand,
        prompts: PromptRenderer,
        engine: EngineClient,
        *,
        timeout_seconds: float,
        shares_tenant: bool,
        canonicalises: bool,
        reports: CacheReports | None = None,
    ) -> None:
        self._models = models
        self._prompts = prompts
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._shares_tenant = shares_tenant
        self._canonicalises = canonicalises
        self._reports = reports
        self._dialects = DialectChoice(prompts)
        self._without_cuts: set[str] = set()  # models that do not use them, as the engine reports
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
                prepared = await self._prepare(manifest, request, finds_cuts=request.use_cache)
        except TimeoutError:
            raise DeadlineExceeded("the request's deadline passed before it was prepared") from None
        tenant = self.find_tenant(request.principal)
        submit = build_submit(
            subtract_elapsed(limited, started_at),
            prepared.prompts,
            prepared.constraint,
            prepared.thinking,
            model=manifest.name,
            tenant=tenant,
        )
        stream = await self._engine.generate(submit)
        return Generation(
            request,
            stream,
            model=manifest.name,
            make_parser=prepared.make_parser,
            started_at=started_at,
            on_started=lambda started: self._note_cuts(manifest.name, started),
            recording=self._start_report(request, prepared.source, manifest, tenant),
        )

    def _start_report(
        self, request: GenerationRequest, prompt: SourcePrompt, manifest: Manifest, tenant: str
    ) -> Recording | None:
        if self._reports is None:
            return None
        return self._reports.start(
            request_id.get(),
            request.principal,
            prompt,
            manifest=manifest,
            tenant=tenant,
            private_key=request.private_cache_key,
            uses_cache=request.use_cache,
        )

    async def count_prompt_tokens(self, request: GenerationRequest) -> int:
        """The tokens that the prompt of a conversation has. Raises what `open` and its events do."""
        check_request(request)
        async with limit_time(self._timeout_seconds):
            manifest = await self._models.resolve(request.model, request.principal)
            (prompt,) = (await self._prepare(manifest, request)).prompts
            tokenize = build_tokenize(prompt, model=manifest.name, principal=request.principal.id)
            return len(await self._engine.calls.tokenize(tokenize))

    async def create_prefix(self, request: GenerationRequest, name: str) -> Message:
        """Keep the request's prompt under a name of its tenant. Raises what `open` does."""
        check_request(request)
        manifest = await self._models.resolve(request.model, request.principal)
        (prompt,) = (await self._prepare(manifest, request)).prompts
        tenant = self.find_tenant(request.principal)
        return await self._engine.calls.create_prefix(
            build_create_prefix(request, prompt, name=name, model=manifest.name, tenant=tenant)
        )

    async def tokenize(
        self, model: str, text: str, principal: Principal, *, add_special: bool, parse_special: bool
    ) -> list[int]:
        """The token ids of a text; with `parse_special`, control tokens in it are such."""
        check_size(len(text), "content")
        async with limit_time(self._timeout_seconds):
            manifest = await self._models.resolve(model, principal)
            prompt = build_text(text, add_special=add_special, parse_special=parse_special)
            return await self._engine.calls.tokenize(
                build_tokenize(prompt, model=manifest.name, principal=principal.id)
            )

    async def detokenize(self, model: str, tokens: Sequence[int], principal: Principal) -> str:
        """The text of token ids, that of control tokens included."""
        async with limit_time(self._timeout_seconds):
            manifest = await self._models.resolve(model, principal)
            return await self._engine.calls.detokenize(
                manifest.name, tokens, principal=principal.id
            )

    async def apply_template(self, request: GenerationRequest) -> str:
        """The prompt of a conversation, as `open` would send it. Raises what `open` does.

        Without BOS where the tokenizer adds it to a text: so a text completion may continue it.
        """
        check_request(request)
        async with limit_time(self._timeout_seconds):
            manifest = await self._models.resolve(request.model, request.principal)
            (prompt,) = (await self._prepare(manifest, request)).prompts
        description = manifest.description
        bos = description.bos_token if description.add_bos else None
        return read_text(prompt).removeprefix(bos or "")

    async def _prepare(
        self, manifest: Manifest, request: GenerationRequest, *, finds_cuts: bool = False
    ) -> _Prepared:
        prompt = request.prompt
        if not isinstance(prompt, Conversation):
            output = request.structured_output
            return _Prepared(
                [build_prompt(each) for each in prompt],
                _read_source(prompt),
                None if output is None else AnswerConstraint(output),
            )
        finds_cuts = finds_cuts and manifest.name not in self._without_cuts
        return await self._renders.run(
            lambda: self._render(manifest, request, prompt, finds_cuts=finds_cuts),
            principal=request.principal.id,
        )

    def _render(
        self,
        manifest: Manifest,
        request: GenerationRequest,
        conversation: Conversation,
        *,
        finds_cuts: bool,
    ) -> _Prepared:
        if self._canonicalises:
            conversation = canonicalise(conversation)
        prompt = self._prompts.render(manifest, conversation, finds_cuts=finds_cuts)
        template = manifest.description.chat_template or ""
        dialect = self._dialects.choose(manifest)
        end = read_end(prompt)
        continues = conversation.continue_final_message
        prefill = conversation.messages[-1]["content"] if continues else None
        thinking = find_thinking(template, end, prefill)
        special = find_special_tokens(manifest.description)
        constraint = build_constraint(request, conversation, dialect, thinking, special)
        budget = build_budget(
            request,
            conversation,
            dialect,
            thinking,
            constraint,
            template=template,
            traits=self._prompts.find_traits(manifest),
        )
        is_structured = constraint is not None and constraint.output is request.structured_output
        make_parser = choose_parser(
            template,
            prompt=end,
            prefill=prefill,
            tools=conversation.tools or (),
            is_structured=is_structured,
            separates_reasoning=request.separates_reasoning,
            dialect=dialect,
        )
        return _Prepared([prompt], conversation, constraint, budget, make_parser)

    def _note_cuts(self, model: str, started: Started) -> None:
        """Models are taken to use cuts until they report; most do not, and are asked once."""
        if started.uses_cuts:
            self._without_cuts.discard(model)
        else:
            self._without_cuts.add(model)

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


def _read_source(prompts: Iterable[TextOrTokens | Infill]) -> tuple[TextOrTokens, ...]:
    """What a report on the cache compares: of an infill, both texts."""
    return tuple(
        text
        for each in prompts
        for text in ((each.prefix, each.suffix) if isinstance(each, Infill) else (each,))
    )
