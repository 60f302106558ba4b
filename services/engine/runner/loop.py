"""The runner's loop: take orders, plan a step, compute it, sample, tell the front. For ever.

The only place that touches scheduler and backend, on the thread that opened the backend. Python has
a few hundred microseconds per step here; whatever can be done elsewhere is (`inbox`, `outbox`).
"""

from __future__ import annotations

import logging
import time

import psutil

from services.engine.backends.base import Backend, Outcome
from services.engine.messages import Cancel, Heartbeat, Queued, Stop
from services.engine.runner.ipc.command_queue import Hangup, Inbox
from services.engine.runner.ipc.report_writer import Outbox
from services.engine.runner.requests.input_processor import Arrival
from services.engine.runner.requests.output_processor import Live
from services.engine.runner.stepping.kv.sequence_pool import Cut, Drop, Move, Sequences, Share
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.scheduler import Scheduler
from services.engine.runner.stepping.scheduler.step_plan import StepPlan, StepResult
from services.engine.runner.stepping.step_builder import fill
from services.engine.runner.stepping.step_sampler import sample
from services.shared.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    SpindllError,
)

logger = logging.getLogger(__name__)

_MOST_FAILURES = 3  # steps that fail one after the other: then a new process is the better try


class EngineLoop:
    """Runs until the front hangs up, stops it, or the backend fails for good."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        sequences: Sequences,
        inbox: Inbox,
        outbox: Outbox,
        *,
        speculates: bool,
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._sequences = sequences
        self._inbox = inbox
        self._outbox = outbox
        self._draft = self._propose if speculates else None
        self._live = Live()
        self._busy_since: float | None = None  # read by the beat's thread
        self._stop_at: float | None = None
        self._failures = 0
        self._process = psutil.Process()

    def run(self) -> int:
        """The process's exit status."""
        while True:
            for order in self._inbox.take():
                if isinstance(order, Hangup):
                    return 0
                self._obey(order)
            if self._stop_at is not None and self._is_drained(self._stop_at):
                self._refuse_all()
                return 0
            if self._failures >= _MOST_FAILURES:
                logger.error("giving up", extra={"failed_steps": self._failures})
                return 1
            if self._scheduler.is_idle:
                self._outbox.post(self._live.take_happenings())
                self._inbox.wait()
            else:
                self._step()
                self._outbox.post(self._live.take_happenings())

    def beat(self) -> Heartbeat:
        """How things are; from any thread."""
        since = self._busy_since
        return Heartbeat(
            busy_seconds=0.0 if since is None else time.monotonic() - since,
            running=self._scheduler.running,
            queued=self._scheduler.queued,
            cells_used=self._sequences.cells.used,
            resident_bytes=self._process.memory_info().rss,
            counters=self._live.counters,
        )

    def _obey(self, order: Arrival | Cancel | Stop) -> None:
        match order:
            case Arrival():
                self._add(order)
            case Cancel():
                for id_ in order.ids:
                    request = self._scheduler.cancel(id_)
                    if request is not None:
                        self._live.cancel(request, time.monotonic())
            case Stop():
                self._stop_at = time.monotonic() + order.drain_seconds

    def _add(self, arrival: Arrival) -> None:
        self._live.add(arrival)
        try:
            if self._stop_at is not None:
                raise EngineUnavailable("the model is being unloaded, try again")
            self._scheduler.add(arrival.request)
        except SpindllError as error:
            self._live.fail(arrival.request, error)

    def _step(self) -> None:
        began = time.monotonic()
        plan = self._scheduler.schedule(began, self._draft)
        self._tell(plan, began)
        for move in plan.moves:
            self._make(move)
        if not plan.chunks:
            return
        fill(self._backend.step, plan.chunks)
        computing = time.monotonic()
        outcome, checkpoints = self._compute(plan)
        computed = time.monotonic()
        if outcome is Outcome.KV_FULL:
            logger.warning("memory was full against the books", extra={"tokens": plan.size})
            for request in self._scheduler.refuse(plan):
                self._live.fail(request, _no_room())
        elif outcome is Outcome.OK:
            self._live.count(plan.chunks)
            results = sample(self._backend, self._live, plan.chunks, computed)
            self._scheduler.apply(plan, StepResult(results, computed - computing, checkpoints))
            counters = self._live.counters
            counters.preemptions = self._scheduler.preemptions
            counters.steps += 1
            counters.decode_seconds += computed - computing
            counters.step_seconds += time.monotonic() - began

    def _compute(self, plan: StepPlan) -> tuple[Outcome | None, dict[Branch, bytes]]:
        """Run the backend: the outcome, and the checkpoints that the plan asks for.

        The outcome is None where the backend failed, and with it the requests of the step.
        """
        checkpoints: dict[Branch, bytes] = {}
        self._busy_since = time.monotonic()
        try:
            outcome = self._backend.run()
            for chunk in plan.chunks:
                if chunk.ends_at_checkpoint and outcome is Outcome.OK:
                    held = chunk.branch.held
                    assert held is not None
                    checkpoints[chunk.branch] = self._backend.checkpoint(held.id)
        except Exception:
            logger.exception("step failed", extra={"tokens": plan.size})
            self._failures += 1
            for request in self._scheduler.discard(plan):
                self._live.fail(request, InternalError("internal error"))
            return None, {}
        finally:
            self._busy_since = None
        self._failures = 0
        return outcome, checkpoints

    def _tell(self, plan: StepPlan, now: float) -> None:
        for request in plan.expired:
            self._live.fail(request, DeadlineExceeded("the request's deadline passed"))
        for request in plan.too_long:
            self._live.fail(request, _no_room())
        for branch in plan.started:
            if not branch.is_done:
                self._live.start(branch, now)
        for id_, position in plan.positions:
            self._live.say(Queued(id_, position))

    def _make(self, move: Move) -> None:
        match move:
            case Share():
                self._backend.share(move.source, move.target, move.end)
                if move.checkpoint is not None:
                    self._backend.restore(move.target, move.checkpoint)
            case Cut():
                self._backend.cut(move.sequence, move.start)
            case Drop():
                self._backend.drop(move.sequence)

    def _propose(self, branch: Branch, limit: int) -> list[int]:
        answer = self._live.answer(branch)
        if answer.lookup is None:
            return []
        return answer.lookup.propose(branch.tokens, limit)

    def _is_drained(self, stop_at: float) -> bool:
        return self._scheduler.is_idle or time.monotonic() >= stop_at

    def _refuse_all(self) -> None:
        """The time to finish is over."""
        for request in self._scheduler.cancel_all():
            self._live.fail(request, EngineUnavailable("the model is being unloaded, try again"))
        self._outbox.post(self._live.take_happenings())


def _no_room() -> ContextLengthExceeded:
    return ContextLengthExceeded("prompt and answer no longer fit the context", param="messages")
