"""The loop of a runner: take commands, plan a step, compute it, sample, report.

EngineLoop is the only place that touches the scheduler and the backend; it runs on the thread that
opened the backend. Python has a few hundred microseconds per step here, so all other work is done
on other threads (`ipc`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import psutil

from services.engine.backends.base import Backend, Outcome
from services.engine.messages import Cancel, Heartbeat, Queued, Stop
from services.engine.runner.ipc.command_queue import CommandQueue, Hangup
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.requests.input_processor import PreparedRequest
from services.engine.runner.requests.output_processor import OutputProcessor
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.memory_executor import execute_operations
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.scheduler import Scheduler
from services.engine.runner.stepping.scheduler.step_plan import StepPlan, StepResult
from services.engine.runner.stepping.step_builder import fill_step
from services.engine.runner.stepping.step_sampler import sample_chunks
from services.shared.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    SpindllError,
)

logger = logging.getLogger(__name__)

_MAX_FAILURES = 3  # failed steps in a row; a new process is then more likely to work


@dataclass(frozen=True, slots=True)
class _Load:
    """What the heartbeat thread reads: replaced as a whole, never changed."""

    running: int = 0
    queued: int = 0
    cells_used: int = 0


class EngineLoop:
    """Runs until the front hangs up or sends Stop, or until the backend fails repeatedly."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        sequence_pool: SequencePool,
        command_queue: CommandQueue,
        report_writer: ReportWriter,
        *,
        speculate: bool,
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._sequence_pool = sequence_pool
        self._command_queue = command_queue
        self._report_writer = report_writer
        self._draft_source = self._propose_draft if speculate else None
        self._output_processor = OutputProcessor()
        self._busy_since: float | None = None  # read by the heartbeat thread, as is `_load`
        self._load = _Load()
        self._stop_at: float | None = None
        self._failures = 0
        self._process = psutil.Process()

    def run(self) -> int:
        """Run until the end; returns the exit status of the process."""
        while True:
            for command in self._command_queue.take():
                if isinstance(command, Hangup):
                    return 0
                self._handle(command)
            if self._stop_at is not None and self._is_drained(self._stop_at):
                self._refuse_all()
                return 0
            if self._failures >= _MAX_FAILURES:
                logger.error("too many failed steps", extra={"failed_steps": self._failures})
                return 1
            is_idle = self._scheduler.is_idle
            if not is_idle:
                self._busy_since = time.monotonic()
                self._step()
                self._busy_since = None
            self._load = _Load(
                self._scheduler.running, self._scheduler.queued, self._sequence_pool.cells.used
            )
            self._report_writer.post(self._output_processor.take_events())
            if is_idle:
                self._command_queue.wait()

    def build_heartbeat(self) -> Heartbeat:
        """The state of the loop as of its last step. Any thread may call this."""
        since, load = self._busy_since, self._load
        return Heartbeat(
            busy_seconds=0.0 if since is None else time.monotonic() - since,
            running=load.running,
            queued=load.queued,
            cells_used=load.cells_used,
            counters=self._output_processor.counters,
        )

    def _handle(self, command: PreparedRequest | Cancel | Stop) -> None:
        match command:
            case PreparedRequest():
                self._add(command)
            case Cancel():
                for id_ in command.ids:
                    request = self._scheduler.cancel(id_)
                    if request is not None:
                        self._output_processor.cancel(request, time.monotonic())
            case Stop():
                self._stop_at = time.monotonic() + command.drain_seconds

    def _add(self, prepared: PreparedRequest) -> None:
        self._output_processor.add(prepared)
        try:
            if self._stop_at is not None:
                raise _build_unloading_error()
            self._scheduler.add(prepared.request)
        except SpindllError as error:
            self._output_processor.fail(prepared.request, error)

    def _step(self) -> None:
        began = time.monotonic()
        plan = self._scheduler.schedule(began, self._draft_source)
        lost = execute_operations(self._backend, plan.operations)
        if lost:
            plan = self._scheduler.restart(plan, lost)
        self._publish(plan, began)
        if not plan.chunks:
            return
        fill_step(self._backend.step, plan.chunks)
        computing = time.monotonic()
        outcome, checkpoints = self._compute(plan)
        computed = time.monotonic()
        if outcome is Outcome.KV_FULL:
            for request in self._scheduler.refuse(plan):
                self._output_processor.fail(request, _build_no_room_error())
        elif outcome is Outcome.OK:
            self._output_processor.count_prompt_tokens(plan.chunks)
            results = sample_chunks(self._backend, self._output_processor, plan.chunks, computed)
            self._scheduler.apply(plan, StepResult(results, computed - computing, checkpoints))
            self._sequence_pool.refresh_windows(self._backend.first_position)
            counters = self._output_processor.counters
            counters.preemptions = self._scheduler.preemptions
            counters.steps += 1
            counters.decode_seconds += computed - computing
            counters.step_seconds += time.monotonic() - began

    def _compute(self, plan: StepPlan) -> tuple[Outcome | None, dict[Branch, bytes]]:
        """Run the backend; returns the outcome, and the checkpoints that the plan asks for.

        The outcome is None where the backend failed. The requests of the step have then failed too.
        """
        checkpoints: dict[Branch, bytes] = {}
        try:
            outcome = self._backend.run()
            for chunk in plan.chunks:
                if chunk.ends_at_checkpoint and outcome is Outcome.OK:
                    sequence = chunk.branch.sequence
                    assert sequence is not None
                    checkpoints[chunk.branch] = self._backend.checkpoint(sequence.id)
        except Exception:
            logger.exception("step failed", extra={"tokens": plan.size})
            self._failures += 1
            for request in self._scheduler.discard(plan):
                self._output_processor.fail(request, InternalError("internal error"))
            return None, {}
        self._failures = 0
        return outcome, checkpoints

    def _publish(self, plan: StepPlan, now: float) -> None:
        """Report what planning the step changed for the clients."""
        for request in plan.expired:
            self._output_processor.fail(request, DeadlineExceeded("the request's deadline passed"))
        for request in plan.too_long:
            self._output_processor.fail(request, _build_no_room_error())
        for branch in plan.started:
            if not branch.is_done:
                self._output_processor.start(branch, now)
        for id_, position in plan.positions:
            self._output_processor.publish(Queued(id_, position))

    def _propose_draft(self, branch: Branch, limit: int, min_acceptance: float) -> list[int]:
        answer = self._output_processor.answer_for(branch)
        if answer.prompt_lookup is None:
            return []
        return answer.prompt_lookup.propose(branch.tokens, limit, min_acceptance=min_acceptance)

    def _is_drained(self, stop_at: float) -> bool:
        return self._scheduler.is_idle or time.monotonic() >= stop_at

    def _refuse_all(self) -> None:
        """Fail the requests that did not finish within the drain time."""
        for request in self._scheduler.cancel_all():
            self._output_processor.fail(request, _build_unloading_error())
        self._report_writer.post(self._output_processor.take_events())


def _build_unloading_error() -> EngineUnavailable:
    return EngineUnavailable("the model is being unloaded, try again")


def _build_no_room_error() -> ContextLengthExceeded:
    return ContextLengthExceeded("prompt and answer no longer fit the context", param="messages")
