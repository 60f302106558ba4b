"""Our own batcher, over a backend that computes one forward pass at a time.

restore ─► schedule ─► memory operations ─► fill the step ─► run ─► sample ─► apply ─► save
"""

from __future__ import annotations

import logging
import time

from services.engine.backends.base import Backend, Outcome
from services.engine.core import Counters
from services.engine.runner.batcher import (
    BatcherState,
    BatchEvent,
    BatchRequest,
    Ended,
    Waiting,
)
from services.engine.runner.errors import build_no_room_error
from services.engine.runner.kvcache.store import MAX_COPIED_ALONE, MAX_COPIED_BYTES, PromptStore
from services.engine.runner.stepping.current_requests import (
    CurrentRequests,
    build_begun_event,
    build_ended_event,
    build_request,
)
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.memory_executor import (
    execute_operations,
    execute_recorded,
    save_checkpoints,
)
from services.engine.runner.stepping.prompt_restorer import PromptRestorer
from services.engine.runner.stepping.prompt_saver import PromptSaver
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.scheduler import Scheduler
from services.engine.runner.stepping.scheduler.step_plan import StepPlan, StepResult
from services.engine.runner.stepping.step_builder import fill_step
from services.engine.runner.stepping.step_sampler import StepSampler
from services.shared.errors import DeadlineExceeded, InternalError

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.002


class StepBatcher:
    """See Batcher. Python has a few hundred microseconds for each step here."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        sequence_pool: SequencePool,
        *,
        speculate: bool,
        store: PromptStore | None = None,
        saver: PromptSaver | None = None,
    ) -> None:
        """`saver` copies computed prompts for the `store` that the scheduler finds them in."""
        self.info = backend.info
        self.vocabulary = backend.vocabulary
        self.pooled = backend.pooled
        self.store = store
        self.uses_cuts = (
            sequence_pool.takes_checkpoints
            or sequence_pool.keeps_prefixes
            or (store is not None and store.saves_whole)
        )
        self.counters = Counters()
        self._backend = backend
        self._scheduler = scheduler
        self._sequence_pool = sequence_pool
        self._propose_draft = Branch.propose_draft if speculate else None
        self._requests = CurrentRequests()
        self._sampler = StepSampler(backend, self._requests)
        self._restorer = PromptRestorer(backend, scheduler, sequence_pool)
        self._saver = saver
        self._failed_steps = 0

    def add(self, request: BatchRequest) -> None:
        """See Batcher.add."""
        self._scheduler.add(build_request(request))
        self._requests.add(request)

    def cancel(self, request_id: int) -> list[Ended]:
        """See Batcher.cancel."""
        cancelled = self._scheduler.cancel(request_id)
        if cancelled is None:
            return []
        answers = self._requests.remove(request_id).answers
        return [
            build_ended_event(branch)
            for branch, answer in zip(cancelled.branches, answers, strict=True)
            if answer.reason is None
        ]

    def step(self, now: float) -> list[BatchEvent]:
        """See Batcher.step."""
        copied = self._restore()
        plan = self._scheduler.schedule(now, self._propose_draft)
        lost = execute_operations(self._backend, plan.operations)
        if lost:
            plan = self._scheduler.restart(plan, lost)
        self._publish(plan)
        if plan.chunks:
            fill_step(self._backend.step, plan.chunks)
            if self._compute(plan):
                self.counters.step_seconds += time.monotonic() - now
            self.counters.preemptions = self._scheduler.admission.preemptions
        self._execute_recorded()
        self._sequence_pool.refresh_windows(self._backend.first_position)
        copied += self._save(copied)
        if not plan.chunks and not copied:
            self._wait()
        return self._requests.take_events()

    def read_state(self) -> BatcherState:
        """See Batcher.read_state."""
        return BatcherState(
            self._scheduler.running,
            self._scheduler.queued,
            self._sequence_pool.cells.used,
            self._failed_steps,
            self._saver.pending if self._saver is not None else 0,
        )

    def close(self) -> None:
        """See Batcher.close."""
        self._backend.close()

    def _compute(self, plan: StepPlan) -> bool:
        """Compute and sample the step; False where the backend could not."""
        began = time.monotonic()
        try:
            outcome = self._backend.run()
            seconds = time.monotonic() - began
            checkpoints = save_checkpoints(self._backend, plan) if outcome is Outcome.OK else {}
        except Exception:
            logger.exception("step failed", extra={"tokens": plan.size})
            self._failed_steps += 1
            for request in self._scheduler.discard(plan):
                self._requests.fail(request.id, InternalError("internal error"))
            return False
        self._failed_steps = 0
        if outcome is Outcome.KV_FULL:
            for request in self._scheduler.refuse(plan):
                self._requests.fail(request.id, build_no_room_error())
            return False
        self._count(plan, seconds)
        if self._saver is not None:
            self._saver.take_snapshot(plan.chunks, self._scheduler.token_seconds)
        results = self._sampler.sample(plan.chunks)
        reached = self._saver.find_progress(plan.chunks, results) if self._saver else []
        self._scheduler.apply(plan, StepResult(results, seconds, checkpoints))
        if self._saver is not None and reached:
            self._saver.queue(reached)
        return True

    def _restore(self) -> int:
        """Load what was fetched of prompts; returns the bytes that were copied."""
        fetching = self._scheduler.admission.fetching
        if not fetching:
            return 0
        self._execute_recorded()
        is_alone = len(fetching) == self._scheduler.running
        return self._restorer.restore(MAX_COPIED_ALONE if is_alone else MAX_COPIED_BYTES)

    def _save(self, copied: int) -> int:
        """Copy for the store, in a step that has copied so much; returns the bytes."""
        if self._saver is None or not self._saver.pending:
            return 0
        most = MAX_COPIED_BYTES if self._scheduler.running else MAX_COPIED_ALONE
        return self._saver.save(most - copied, self._scheduler.token_seconds)

    def _execute_recorded(self) -> None:
        execute_recorded(self._backend, self._sequence_pool, self._scheduler.admission)

    def _wait(self) -> None:
        """Wait a moment for the store; call this where there is nothing else to do."""
        if self._scheduler.admission.fetching:
            self._restorer.wait(_WAIT_SECONDS)
        elif self._saver is not None and self._saver.pending:
            time.sleep(_WAIT_SECONDS)

    def _publish(self, plan: StepPlan) -> None:
        """Publish what planning the step has changed."""
        for request in plan.expired:
            self._requests.fail(request.id, DeadlineExceeded("the request's deadline passed"))
        for request in plan.too_long:
            self._requests.fail(request.id, build_no_room_error())
        for branch in plan.started:
            if not branch.is_done:
                self._requests.publish(build_begun_event(branch))
        for id_, position in plan.positions:
            self._requests.publish(Waiting(id_, position))

    def _count(self, plan: StepPlan, seconds: float) -> None:
        counters = self.counters
        counters.steps += 1
        counters.decode_seconds += seconds
        for chunk in plan.chunks:
            branch = chunk.branch
            if chunk.start >= len(branch.request.prompt):
                continue
            end = min(chunk.start + chunk.count, len(branch.request.prompt))
            begin = max(chunk.start, branch.counted_tokens)
            if end > begin:  # each token of the prompt once per branch
                counters.computed_tokens += end - begin
                branch.counted_tokens = end
