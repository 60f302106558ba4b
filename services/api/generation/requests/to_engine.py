"""From the pipeline's request to the engine's. With from_engine.py the only place that sees both.

A request is one submit, however many prompts it has: options and constraint travel once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from protos import engine_pb2
from services.api.access.keys import Role
from services.api.generation.requests.answer_constraint import AnswerConstraint, Trigger
from services.api.generation.requests.embedding_request import EmbeddingRequest, RankingRequest
from services.api.generation.requests.generation_request import (
    GenerationRequest,
    Infill,
    Lane,
    Sampling,
    Stopping,
    TextOrTokens,
)
from services.api.generation.requests.thinking_budget import ThinkingBudget

_LANES = {
    Lane.INTERACTIVE: engine_pb2.LANE_INTERACTIVE,
    Lane.BACKGROUND: engine_pb2.LANE_BACKGROUND,
    Lane.BATCH: engine_pb2.LANE_BATCH,
}

Prompt = engine_pb2.PromptText | engine_pb2.PromptTokens | engine_pb2.PromptInfill


def build_submit(
    request: GenerationRequest,
    prompts: Sequence[Prompt],
    constraint: AnswerConstraint | None = None,
    thinking: ThinkingBudget | None = None,
    *,
    model: str,
    tenant: str,
) -> engine_pb2.Submit:
    """The submit for a request; `model` is the canonical name. The engine client sets the ids."""
    submit = engine_pb2.Submit(
        trace_id=request.id,
        model=model,
        principal=request.principal.id,
        tenant=tenant,
        n=request.answers_per_prompt,
        lane=_LANES[request.lane],
        no_cache=not request.use_cache,
        private_cache_key=request.private_cache_key,
        prompt_logprobs=request.prompt_logprobs,
        top_logprobs=request.top_logprobs,
        deadline_seconds=request.deadline_seconds,
        keep_alive_seconds=request.keep_alive_seconds,
        keep_alive_only_extends=request.principal.role is not Role.ADMIN,
        sampling=_build_sampling(request.sampling),
        stopping=_build_stopping(request.stopping),
    )
    if constraint is not None:
        submit.constraint.CopyFrom(_build_constraint(constraint))
    if thinking is not None:
        submit.thinking.CopyFrom(engine_pb2.ThinkingBudget(**_read_fields(thinking)))
    _set_prompt(submit, prompts[0])
    for prompt in prompts[1:]:
        _set_prompt(submit.further_prompts.add(), prompt)
    return submit


def build_embed(request: EmbeddingRequest, *, model: str) -> engine_pb2.EmbedRequest:
    """The call for a request; `model` is the canonical name."""
    return engine_pb2.EmbedRequest(
        model=model,
        inputs=[_build_input(text) for text in request.inputs],
        truncate=request.truncate,
        dimensions=request.dimensions or 0,
        principal=request.principal.id,
    )


def build_rerank(request: RankingRequest, *, model: str) -> engine_pb2.RerankRequest:
    """As `build_embed`."""
    return engine_pb2.RerankRequest(
        model=model,
        query=request.query,
        documents=request.documents,
        truncate=request.truncate,
        principal=request.principal.id,
    )


def build_create_prefix(
    request: GenerationRequest, prompt: Prompt, *, name: str, model: str, tenant: str
) -> engine_pb2.CreatePrefixRequest:
    """The call that keeps a prompt under a name; `model` is the canonical name."""
    create = engine_pb2.CreatePrefixRequest(
        name=name, tenant=tenant, principal=request.principal.id, model=model
    )
    assert not isinstance(prompt, engine_pb2.PromptInfill)  # which begins nothing
    if isinstance(prompt, engine_pb2.PromptText):
        create.text.CopyFrom(prompt)
    else:
        create.tokens.CopyFrom(prompt)
    return create


def build_tokenize(prompt: Prompt, *, model: str, principal: str) -> engine_pb2.TokenizeRequest:
    """The call for the tokens of a text; `model` is the canonical name."""
    assert isinstance(prompt, engine_pb2.PromptText)  # the others are token ids already
    return engine_pb2.TokenizeRequest(model=model, text=prompt, principal=principal)


def build_text(text: str, *, add_special: bool, parse_special: bool) -> Prompt:
    """A text as it stands."""
    piece = engine_pb2.TextPiece(text=text, literal=not parse_special)
    return engine_pb2.PromptText(pieces=[piece], add_special=add_special)


def build_prompt(prompt: TextOrTokens | Infill) -> Prompt:
    """A prompt without a chat template."""
    if isinstance(prompt, Infill):
        return engine_pb2.PromptInfill(prefix=prompt.prefix, suffix=prompt.suffix)
    if isinstance(prompt, str):
        return engine_pb2.PromptText(pieces=[engine_pb2.TextPiece(text=prompt)], add_special=True)
    return engine_pb2.PromptTokens(ids=prompt)


def read_text(prompt: Prompt) -> str:
    """The text of a prompt."""
    assert isinstance(prompt, engine_pb2.PromptText)  # the others are token ids
    return "".join(piece.text for piece in prompt.pieces)


def read_end(prompt: Prompt) -> str:
    """The end of what the template wrote; empty where the prompt ends with a person's text."""
    pieces = prompt.pieces if isinstance(prompt, engine_pb2.PromptText) else ()
    return pieces[-1].text if pieces and not pieces[-1].literal else ""


def _build_input(text: TextOrTokens) -> engine_pb2.EmbedInput:
    if isinstance(text, str):
        return engine_pb2.EmbedInput(text=text)
    return engine_pb2.EmbedInput(tokens=engine_pb2.PromptTokens(ids=text))


def _set_prompt(message: engine_pb2.Submit | engine_pb2.FurtherPrompt, prompt: Prompt) -> None:
    if isinstance(prompt, engine_pb2.PromptText):
        message.text.CopyFrom(prompt)
    elif isinstance(prompt, engine_pb2.PromptInfill):
        message.infill.CopyFrom(prompt)
    else:
        message.tokens.CopyFrom(prompt)


def _build_sampling(sampling: Sampling) -> engine_pb2.Sampling:
    return engine_pb2.Sampling(**_read_fields(sampling))


def _build_stopping(stopping: Stopping) -> engine_pb2.Stopping:
    return engine_pb2.Stopping(
        max_tokens=stopping.max_tokens,
        min_tokens=stopping.min_tokens,
        strings=stopping.strings,
        token_ids=stopping.token_ids,
        ignore_eos=stopping.ignore_eos,
    )


def _build_constraint(constraint: AnswerConstraint) -> engine_pb2.Constraint:
    message = engine_pb2.Constraint(before=constraint.before)
    setattr(message, constraint.output.format.value, constraint.output.source)
    trigger = constraint.trigger
    if trigger is not None:
        message.trigger.CopyFrom(engine_pb2.Trigger(**_read_fields(trigger)))
    return message


def _read_fields(value: Sampling | Trigger | ThinkingBudget) -> dict[str, Any]:
    """The fields, which have the names of the message's; one that is None stays absent there."""
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
