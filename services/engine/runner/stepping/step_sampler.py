"""From a step's logits to tokens: one answer at a time, drafts verified, failures kept apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from services.engine.backends.base import Backend
from services.engine.runner.requests.answer import Answer
from services.engine.runner.requests.output_processor import Live
from services.engine.runner.stepping.sampling.logprobs import token_logprob
from services.engine.runner.stepping.scheduler.step_plan import Chunk, ChunkResult
from services.shared.errors import InternalError, SpindllError

logger = logging.getLogger(__name__)

_NOT_SAMPLED = ChunkResult()
_FAILED = ChunkResult(is_failed=True)


def sample(backend: Backend, live: Live, chunks: Sequence[Chunk], now: float) -> list[ChunkResult]:
    """Sample every chunk that ends in a token, and report to `live`; one result for each chunk."""
    results = []
    row = 0
    for chunk in chunks:
        result = _NOT_SAMPLED
        # The failure of a sibling may just have ended the request.
        if chunk.outputs and chunk.branch.request.id in live:
            result = _sample_chunk(backend, live, chunk, row, now)
        results.append(result)
        row += chunk.outputs
    return results


def _sample_chunk(backend: Backend, live: Live, chunk: Chunk, row: int, now: float) -> ChunkResult:
    """One chunk's tokens. An answer that cannot go on fails alone."""
    branch = chunk.branch
    try:
        if branch.request.wants_prompt_logits:
            _note_prompt_logprobs(backend, live, chunk, row)
        if not chunk.is_last:
            return _NOT_SAMPLED
        answer = live.answer(branch)
        if chunk.drafts:
            sampled = _verified(backend, answer, chunk, row)
        else:
            token = answer.take(backend.logits(row + chunk.outputs - 1))
            sampled = [] if token is None else [token]
        is_finished = answer.reason is not None
        live.progress(branch, answer, now)
        return ChunkResult(sampled, is_finished)
    except SpindllError as error:
        live.fail(branch.request, error)
    except Exception:
        logger.exception("sampling failed", extra={"id": branch.request.id})
        live.fail(branch.request, InternalError("internal error"))
    return _FAILED


def _verified(backend: Backend, answer: Answer, chunk: Chunk, row: int) -> list[int]:
    """The sampled tokens: one, and one more for every draft that agreed with it."""
    row += chunk.outputs - 1 - len(chunk.drafts)
    tokens: list[int] = []
    accepted = 0
    for place in range(1 + len(chunk.drafts)):
        token = answer.take(backend.logits(row + place))
        if token is None:
            break
        tokens.append(token)
        if place == len(chunk.drafts) or token != chunk.drafts[place]:
            break
        accepted += 1
        if answer.reason is not None:
            break
    if answer.lookup is not None:
        answer.lookup.observe(len(chunk.drafts), accepted)
    answer.draft_tokens += len(chunk.drafts)
    answer.draft_accepted += accepted
    return tokens


def _note_prompt_logprobs(backend: Backend, live: Live, chunk: Chunk, row: int) -> None:
    """Log-probabilities of prompt tokens: the row of one tells about the next."""
    arrival = live.arrival(chunk.branch)
    prompt = chunk.branch.request.prompt
    piece = live.answer(chunk.branch).piece
    top = arrival.submit.top_logprobs or 0
    for offset in range(chunk.count):
        position = chunk.start + offset
        # A preempted branch computes its prompt again, its siblings too: each token counts once.
        if position + 1 < len(prompt) and len(arrival.prompt_logprobs) == position:
            logits = backend.logits(row + offset)
            arrival.prompt_logprobs.append(token_logprob(logits, prompt[position + 1], top, piece))
