"""Turn the logits of a step into tokens, answer by answer; verify drafts, and isolate failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from services.engine.backends.base import Backend, Logits
from services.engine.runner.batcher import Answer, PromptScored, Written
from services.engine.runner.sampling.logprobs import compute_logprob
from services.engine.runner.sampling.row import Row
from services.engine.runner.stepping.current_requests import CurrentRequests
from services.engine.runner.stepping.scheduler.step_plan import Chunk, ChunkResult
from services.shared.errors import InternalError, SpindllError

logger = logging.getLogger(__name__)

_NOT_SAMPLED = ChunkResult()
_FAILED = ChunkResult(is_failed=True)


class StepSampler:
    """Samples the steps of one backend, and publishes what it did to the requests."""

    def __init__(self, backend: Backend, requests: CurrentRequests) -> None:
        self._backend = backend
        self._requests = requests
        self._piece = backend.vocabulary.piece
        self._read_piece = backend.vocabulary.read_piece  # a prompt may have end tokens

    def sample(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Sample the chunks that end in a token; returns one result for each, in their order."""
        results = []
        row = 0
        for chunk in chunks:
            result = _NOT_SAMPLED
            # The failure of a sibling may just have ended the request.
            if chunk.outputs and chunk.branch.request.id in self._requests:
                result = self._sample_chunk(chunk, row)
            results.append(result)
            row += chunk.outputs
        return results

    def _sample_chunk(self, chunk: Chunk, row: int) -> ChunkResult:
        """Sample the tokens of one chunk. An error ends its request only."""
        branch = chunk.branch
        try:
            if branch.request.wants_prompt_logits:
                self._score_prompt(chunk, row)
            if not chunk.is_last:
                return _NOT_SAMPLED
            answer = self._requests.answer_for(branch)
            if chunk.drafts:
                sampled = self._verify_drafts(answer, chunk, row)
            else:
                token = self._sample_token(answer, self._backend.logits(row + chunk.outputs - 1))
                sampled = [] if token is None else [token]
        except SpindllError as error:
            self._requests.fail(branch.request.id, error)
            return _FAILED
        except Exception:
            logger.exception("sampling failed", extra={"id": branch.request.id})
            self._requests.fail(branch.request.id, InternalError("internal error"))
            return _FAILED
        if sampled:
            self._requests.publish(Written(branch.request.id, branch.index))
        if answer.reason is not None:
            self._requests.end(branch)
        return ChunkResult(sampled, answer.reason is not None)

    def _sample_token(self, answer: Answer, logits: Logits) -> int | None:
        """Sample the next token; None if the answer ends instead."""
        row = Row(logits)
        token = answer.pick(row)
        logprob = None
        if answer.top_logprobs is not None:
            logprob = compute_logprob(row, token, answer.top_logprobs, self._piece)
        return token if answer.write(token, logprob) else None

    def _verify_drafts(self, answer: Answer, chunk: Chunk, row: int) -> list[int]:
        """Sample one token, and one more after every drafted token that equals the sampled one."""
        branch, drafts = chunk.branch, chunk.drafts
        row += chunk.outputs - 1 - len(drafts)
        tokens: list[int] = []
        accepted = 0
        for place in range(1 + len(drafts)):
            token = self._sample_token(answer, self._backend.logits(row + place))
            if token is None:
                break
            tokens.append(token)
            if place == len(drafts) or token != drafts[place]:
                break
            accepted += 1
            if answer.reason is not None:
                break
        branch.record_draft(len(drafts), accepted)
        return tokens

    def _score_prompt(self, chunk: Chunk, row: int) -> None:
        """Publish log-probabilities of prompt tokens; the row of a token predicts the next one."""
        request = chunk.branch.request
        top = self._requests.get(chunk.branch).prompt_logprobs or 0
        entries = []
        for offset in range(chunk.count):
            position = chunk.start + offset
            # Siblings and preempted branches compute the same prompt again: score each token once.
            if position == request.scored_tokens and position + 1 < len(request.prompt):
                logits = self._backend.logits(row + offset)
                token = request.prompt[position + 1]
                entries.append(compute_logprob(logits, token, top, self._read_piece))
                request.scored_tokens += 1
        if entries:
            self._requests.publish(PromptScored(request.id, entries))
