"""Batching with mlx-lm: queue requests, admit their answers, and report what a step did.

expire ─► admit ─► make room ─► compute ─► write, end, fail
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import repeat

from services.engine.backends.mlx.loading import LoadedModel, free
from services.engine.backends.mlx.pooled import find_pooled_model
from services.engine.core import Counters, LoadConfig
from services.engine.queue_shares import has_place
from services.engine.runner.batcher import (
    BatcherState,
    BatchEvent,
    BatchRequest,
    Ended,
    PromptScored,
    Waiting,
    Written,
)
from services.engine.runner.errors import build_too_long_error
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.mlx.generated_answer import GeneratedAnswer
from services.engine.runner.mlx.sequence_batch import SequenceBatch
from services.engine.runner.mlx.step_report import StepReport
from services.engine.runner.stepping.current_requests import (
    CurrentRequests,
    build_begun_event,
    build_ended_event,
    build_request,
)
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.shared.errors import (
    DeadlineExceeded,
    EngineBusy,
    InternalError,
    InvalidRequest,
    SpindllError,
)

logger = logging.getLogger(__name__)


class MlxBatcher:
    """See Batcher.

    Further answers to one prompt wait until the first has read it. When a batch becomes too large,
    its youngest answer goes back to the queue with its tokens.
    """

    def __init__(self, loaded: LoadedModel, config: LoadConfig, store: PromptStore | None) -> None:
        self.info = loaded.info
        self.vocabulary = loaded.vocabulary
        self.pooled = find_pooled_model(loaded, config)
        self.store = store
        self.counters = Counters()
        self._library = loaded.library
        self._max_queued = config.max_queued
        self._batch: SequenceBatch = SequenceBatch(loaded, config, store)
        self.uses_cuts = not self._batch.can_cut
        self._queue = FairQueue()
        self._current = CurrentRequests()
        self._requests: dict[int, Request] = {}
        self._held: dict[int, list[Branch]] = {}  # further answers, by request
        self._serial = self._failed_steps = 0
        self._is_closed = False

    def add(self, request: BatchRequest) -> None:
        """See Batcher.add."""
        context = min(self.info.context_length, self._batch.cells)
        n = len(request.answers)
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if len(request.prompt) >= context:
            raise build_too_long_error(len(request.prompt), context)
        limit = max(self._max_queued, n)
        if not has_place(request.principal, n, self._list_waiting(), limit=limit):
            raise EngineBusy(f"{self._queued} requests are waiting already, try again later")
        self._serial += 1
        known = build_request(request)
        known.max_length = min(request.max_length, context)
        known.serial = self._serial
        known.branches = [Branch(known, index, list(request.prompt)) for index in range(n)]
        self._requests[request.id] = known
        self._held[request.id] = known.branches[1:]
        self._current.add(request)
        self._queue.add(known.branches[0])

    def cancel(self, request_id: int) -> list[Ended]:
        """See Batcher.cancel."""
        request = self._requests.get(request_id)
        if request is None:
            return []
        unfinished = [branch for branch in request.branches if not branch.is_done]
        self._forget(request)
        self._current.remove(request_id)
        return [build_ended_event(branch) for branch in unfinished]

    def step(self, now: float) -> list[BatchEvent]:
        """See Batcher.step."""
        self._expire(now)
        try:
            self._admit(now)
            self._make_room()
            if self._batch.answers or self._batch.saving:
                report = self._batch.compute()
                for branch, cached in report.begun:
                    self._begin(branch, cached)
                if report.seconds:
                    self._count(report)
                    self._publish(report)
                    self.counters.step_seconds += time.monotonic() - now
            self._failed_steps = 0
        except Exception:
            logger.exception("step failed", extra={"answers": len(self._batch.answers)})
            self._failed_steps += 1
            self._fail_all()
        for id_, position in self._queue.take_changed_positions(now):
            self._current.publish(Waiting(id_, position))
        return self._current.take_events()

    def read_state(self) -> BatcherState:
        """See Batcher.read_state."""
        return BatcherState(
            len(self._batch.answers),
            self._queued,
            self._batch.tokens,
            self._failed_steps,
            self._batch.saving,
        )

    def close(self) -> None:
        """See Batcher.close."""
        if not self._is_closed:
            self._is_closed = True
            if self.pooled is not None:
                self.pooled.close()
            self._batch.close()
            del self._batch  # it holds the weights
            free(self._library)

    @property
    def _queued(self) -> int:
        return len(self._queue) + sum(map(len, self._held.values()))

    def _list_waiting(self) -> Iterator[str]:
        """The principal of each answer that waits."""
        yield from self._queue.list_principals()
        for id_, held in self._held.items():
            yield from repeat(self._requests[id_].principal, len(held))

    def _expire(self, now: float) -> None:
        late = [r for r in self._requests.values() if r.deadline is not None and r.deadline <= now]
        for request in late:
            self._fail(request, DeadlineExceeded("the request's deadline passed"))

    def _admit(self, now: float) -> None:
        while (branch := self._queue.peek(now)) is not None and self._batch.has_room(branch):
            self._queue.take(branch)
            branch.rank = branch.rank_at(now)
            request = self._current.get(branch)
            is_scored = branch.index > 0 or branch.request.scored_tokens >= len(request.prompt) - 1
            try:
                cached = self._batch.start(
                    branch,
                    self._current.answer_for(branch),
                    score_top=None if is_scored else request.prompt_logprobs,
                )
            except Exception:
                # It is neither in the queue nor in the batch, so nothing else would end it.
                self._fail(branch.request, InternalError("internal error"))
                raise
            if cached is not None:
                self._begin(branch, cached)

    def _begin(self, branch: Branch, cached: int) -> None:
        """The work on a branch begins, or continues, behind tokens that are computed already."""
        if branch.cached_tokens is None:
            branch.cached_tokens = min(cached, len(branch.request.prompt))
            self._current.publish(build_begun_event(branch))

    def _make_room(self) -> None:
        while self._batch.is_too_large:
            branch = max((a.branch for a in self._batch.answers), key=lambda b: b.age)
            self._batch.remove(branch)
            self._queue.put_back(branch)
            self.counters.preemptions += 1

    def _publish(self, report: StepReport) -> None:
        """Publish what a step did to its answers, and let further answers follow."""
        for branch, start, entries in report.scored:
            # A prompt that was preempted is scored again from its beginning.
            new = entries[max(branch.request.scored_tokens - start, 0) :]
            branch.request.scored_tokens += len(new)
            self._current.publish(PromptScored(branch.request.id, new))
        for branch in report.read:
            for sibling in self._held.pop(branch.request.id, ()):
                self._queue.add(sibling)
        for answer in self._batch.answers:
            if not answer.branch.is_done:  # the failure of a sibling may just have ended it
                self._publish_answer(answer)

    def _publish_answer(self, answer: GeneratedAnswer) -> None:
        branch = answer.branch
        if answer.error is not None:
            self._fail(branch.request, answer.error)
            return
        if answer.take_written():
            self._current.publish(Written(branch.request.id, branch.index))
        if answer.is_over:
            branch.is_done = True
            self._batch.remove(branch)
            self._current.publish(build_ended_event(branch))
            if branch.request.is_done:
                self._current.remove(branch.request.id)
                self._remove(branch.request)

    def _count(self, report: StepReport) -> None:
        self.counters.steps += 1
        self.counters.decode_seconds += report.seconds
        for branch, tokens in report.computed:
            # A preempted answer computes its tokens again; each token of a prompt counts once.
            left = len(branch.request.prompt) - (branch.cached_tokens or 0) - branch.counted_tokens
            counted = min(tokens, left)
            branch.counted_tokens += counted
            self.counters.computed_tokens += counted

    def _fail_all(self) -> None:
        """A step failed: its requests end with an error, and the generator begins anew."""
        lost = {answer.branch.request.id for answer in self._batch.answers}
        self._batch.restart()
        for request in [r for r in self._requests.values() if r.id in lost]:
            self._fail(request, InternalError("internal error"))

    def _fail(self, request: Request, error: SpindllError) -> None:
        self._forget(request)
        self._current.fail(request.id, error)

    def _forget(self, request: Request) -> None:
        for branch in request.branches:
            if not branch.is_done:
                branch.is_done = True
                self._queue.remove(branch)
                self._batch.remove(branch)
        self._remove(request)

    def _remove(self, request: Request) -> None:
        del self._requests[request.id]
        self._held.pop(request.id, None)
