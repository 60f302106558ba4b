"""Turn the logits of a step into tokens, answer by answer; verify drafts, and isolate failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from services.engine.backends.base import Backend
from services.engine.runner.requests.answer import Answer
from services.engine.runner.requests.output_processor import OutputProcessor
from services.engine.runner.stepping.sampling.logprobs import compute_logprob
from services.engine.runner.stepping.scheduler.step_plan import Chunk, ChunkResult
from services.shared.errors import InternalError, SpindllError

logger = logging.getLogger(__name__)

_NOT_SAMPLED = ChunkResult()
_FAILED = ChunkResult(is_failed=True)


def sample_chunks(
    backend: Backend, output_processor: OutputProcessor, chunks: Sequence[Chunk], now: float
) -> list[ChunkResult]:
    """Sample the chunks that end in a token, and report to `output_processor`.

    Returns one result for each chunk, in their order.
    """
    results = []
    row = 0
    for chunk in chunks:
        result = _NOT_SAMPLED
        # The failure of a sibling may just have ended the request.
        if chunk.outputs and chunk.branch.request.id in output_processor:
            result = _sample_chunk(backend, output_processor, chunk, row, now)
        results.append(result)
        row += chunk.outputs
    return results


def _sample_chunk(
    backend: Backend, output_processor: OutputProcessor, chunk: Chunk, row: int, now: float
) -> ChunkResult:
    """Sample the tokens of one chunk. An error ends its request only."""
    branch = chunk.branch
    try:
        if branch.request.wants_prompt_logits:
            _record_prompt_logprobs(backend, output_processor, chunk, row)
        if not chunk.is_last:
            return _NOT_SAMPLED
        answer = output_processor.answer_for(branch)
        if chunk.drafts:
            sampled = _verify_drafts(backend, answer, chunk, row)
        else:
            token = answer.sample_token(backend.logits(row + chunk.outputs - 1))
            sampled = [] if token is None else [token]
        is_finished = answer.reason is not None
        output_processor.record_progress(branch, answer, now)
        return ChunkResult(sampled, is_finished)
    except SpindllError as error:
        output_processor.fail(branch.request, error)
    except Exception:
        logger.exception("sampling failed", extra={"id": branch.request.id})
        output_processor.fail(branch.request, InternalError("internal error"))
    return _FAILED


def _verify_drafts(backend: Backend, answer: Answer, chunk: Chunk, row: int) -> list[int]:
    """Sample one token, and one more after every drafted token that equals the sampled one."""
    row += chunk.outputs - 1 - len(chunk.drafts)
    tokens: list[int] = []
    accepted = 0
    for place in range(1 + len(chunk.drafts)):
        token = answer.sample_token(backend.logits(row + place))
        if token is None:
            break
        tokens.append(token)
        if place == len(chunk.drafts) or token != chunk.drafts[place]:
            break
        accepted += 1
        if answer.reason is not None:
            break
    if answer.prompt_lookup is not None:
        answer.prompt_lookup.observe(len(chunk.drafts), accepted)
    answer.draft_tokens += len(chunk.drafts)
    answer.draft_accepted += accepted
    return tokens


def _record_prompt_logprobs(
    backend: Backend, output_processor: OutputProcessor, chunk: Chunk, row: int
) -> None:
    """Record log-probabilities of prompt tokens; the row of each token predicts the next one."""
    prepared = output_processor.prepared_for(chunk.branch)
    prompt = chunk.branch.request.prompt
    piece = output_processor.answer_for(chunk.branch).piece
    top = prepared.submit.top_logprobs or 0
    for offset in range(chunk.count):
        position = chunk.start + offset
        # Siblings and preempted branches compute the same prompt again: record each token once.
        if position + 1 < len(prompt) and len(prepared.prompt_logprobs) == position:
            logits = backend.logits(row + offset)
            prepared.prompt_logprobs.append(
                compute_logprob(logits, prompt[position + 1], top, piece)
            )
