"""Decide which tokens of which answers are computed in the next step.

A pure state machine: no thread, no lock, no backend; the clock's reading is passed in. The loop
calls it from one thread, in the order schedule -> (moves, run) -> apply | refuse | discard.

    schedule  1 forget what is past its deadline   2 let followers go   3 admit
              4 every generating branch            5 parts of prompts, under the time cap
              6 make room: evict cached sequences, then preempt the youngest
              7 drafts, where they cost little
"""

from __future__ import annotations

from collections.abc import Sequence

from services.engine.runner.stepping.kv.sequence_pool import Sequences
from services.engine.runner.stepping.scheduler.admission import Admission
from services.engine.runner.stepping.scheduler.chunking import decode_chunks, prompt_chunks
from services.engine.runner.stepping.scheduler.drafts import Draft, add_drafts
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.prefill_budget import Pace
from services.engine.runner.stepping.scheduler.prefill_shares import Slices
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.engine.runner.stepping.scheduler.step_plan import (
    Chunk,
    ChunkResult,
    StepPlan,
    StepResult,
    count_tokens,
)
from services.shared.errors import ContextLengthExceeded, EngineBusy, InvalidRequest


class Scheduler:
    """All requests of a runner, waiting and running."""

    def __init__(
        self,
        sequences: Sequences,
        *,
        context_length: int,
        most_running: int,
        most_tokens: int,
        most_queued: int,
        target_seconds: float | None,
    ) -> None:
        """At most so many branches run, tokens make a step, branches wait."""
        self._context_length = context_length
        self._sequences = sequences
        self._most_tokens = most_tokens
        self._most_queued = most_queued
        self._pace = Pace(target_seconds=target_seconds, most_tokens=most_tokens)
        self._queue = FairQueue()
        self._admission = Admission(sequences, self._queue, most_running=most_running)
        self._requests: dict[int, Request] = {}
        self._serial = 0
        self._slices = Slices()
        self._with_deadline: set[int] = set()

    @property
    def running(self) -> int:
        """Branches that hold a place."""
        return len(self._admission.running)

    @property
    def queued(self) -> int:
        """Branches that wait for one."""
        return len(self._queue)

    @property
    def preemptions(self) -> int:
        """How often a branch was sent back to the queue."""
        return self._admission.preemptions

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until something is added."""
        return not self._requests

    def add(self, request: Request) -> None:
        """Queue a request. Raises InvalidRequest, ContextLengthExceeded, EngineBusy."""
        context = min(self._context_length, self._sequences.cells.capacity)
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if len(request.prompt) >= context:
            raise too_long(len(request.prompt), context)
        if len(self._queue) + request.n > max(self._most_queued, request.n):
            raise EngineBusy(f"{len(self._queue)} requests are waiting already, try again later")
        self._serial += 1
        request.serial = self._serial
        request.limit = min(request.limit, context)
        request.branches = [Branch(request, i, list(request.prompt)) for i in range(request.n)]
        self._requests[request.id] = request
        if request.deadline is not None:
            self._with_deadline.add(request.id)
        for branch in request.branches:
            self._queue.add(branch)

    def cancel(self, request_id: int) -> Request | None:
        """Forget a request now, in whatever state; None if it is not known."""
        request = self._requests.get(request_id)
        if request is not None:
            self._forget(request)
        return request

    def cancel_all(self) -> list[Request]:
        """Forget every request."""
        requests = list(self._requests.values())
        for request in requests:
            self._forget(request)
        return requests

    def schedule(self, now: float, draft: Draft | None = None) -> StepPlan:
        """The next step; it has no chunks when there is nothing to compute."""
        expired = self._expire(now)
        self._admission.resolve()
        started = self._admission.admit(now) if len(self._queue) else []
        chunks, too_long = self._make_room(self._plan_chunks())
        if draft is not None and not self._sequences.is_recurrent:
            room = min(self._most_tokens, self._sequences.cells.free) - count_tokens(chunks)
            chunks = add_drafts(chunks, draft, room)
        return StepPlan(
            moves=self._sequences.take_moves(),
            chunks=chunks,
            started=started,
            expired=expired,
            too_long=too_long,
            positions=self._queue.changed_positions(),
        )

    def apply(self, plan: StepPlan, result: StepResult) -> None:
        """Take in what came of a plan's step, which was computed and sampled."""
        decodes = sum(chunk.count == 1 for chunk in plan.chunks)
        self._pace.observe(
            prompt_tokens=plan.prompt_tokens, decodes=decodes, seconds=result.seconds
        )
        for chunk, outcome in zip(plan.chunks, result.chunks, strict=True):
            if not chunk.branch.is_done:  # the failure of a sibling may just have ended it
                self._advance(chunk, outcome, result.checkpoints.get(chunk.branch))
        self._sequences.pass_rows(plan.size)

    def refuse(self, plan: StepPlan) -> list[Request]:
        """The backend had no room although the books said so: believe it, and make room.

        Returns requests that cannot fit; they are gone.
        """
        cells = self._sequences.cells
        cells.capacity = min(cells.capacity, cells.used + plan.size - 1)
        if self._sequences.evict():
            return []
        if self.running > 1:
            self._admission.preempt(self._youngest())
            return []
        return self._fail([chunk.branch.request for chunk in plan.chunks])

    def discard(self, plan: StepPlan) -> list[Request]:
        """The step failed in a way nobody knows: its requests are gone, and their memory."""
        return self._fail([chunk.branch.request for chunk in plan.chunks])

    def _plan_chunks(self) -> list[Chunk]:
        running = self._admission.running
        decodes = decode_chunks(running)
        prompts = [b for b in running if b.follows is None and b.pending > 1]
        if not prompts:
            return decodes
        room = self._most_tokens - len(decodes)
        paced = self._pace.prompt_tokens(decodes=len(decodes), prompts=len(prompts))
        return decodes + prompt_chunks(
            self._slices,
            prompts,
            min(room, paced),
            beside=decodes,
            cells_used=self._sequences.cells.used,
            is_recurrent=self._sequences.is_recurrent,
        )

    def _make_room(self, chunks: list[Chunk]) -> tuple[list[Chunk], list[Request]]:
        """Evict, then preempt, until the step's tokens fit; the chunks left, and what never fits."""
        cells = self._sequences.cells
        while count_tokens(chunks) > cells.free:
            if self._sequences.evict():
                continue
            if self.running == 1:
                return [], self._fail([self._admission.running[0].request])
            victim = self._youngest()
            self._admission.preempt(victim)
            chunks = [chunk for chunk in chunks if chunk.branch is not victim]
        return chunks, []

    def _advance(self, chunk: Chunk, result: ChunkResult, checkpoint: bytes | None) -> None:
        branch = chunk.branch
        held = branch.held
        assert held is not None
        if result.is_failed:
            self._fail([branch.request])
            return
        computed = chunk.start + chunk.count
        if result.sampled:
            branch.tokens += result.sampled
            computed += len(result.sampled) - 1  # all but the last were drafted, and are in memory
        self._sequences.grow(held, computed)
        if chunk.drafts:
            self._sequences.cut(held, chunk.start + chunk.size)
        if checkpoint is not None:
            self._sequences.add_checkpoint(held, checkpoint)
        if result.sampled is None or chunk.count > 1:
            self._admission.note_progress(branch)
        if result.is_finished:
            self._finish(branch)

    def _finish(self, branch: Branch) -> None:
        branch.is_done = True
        self._admission.release(branch)
        if branch.request.is_done:
            self._drop_books(branch.request)

    def _expire(self, now: float) -> list[Request]:
        late = [
            request
            for id_ in self._with_deadline
            if (request := self._requests[id_]).deadline is not None and request.deadline <= now
        ]
        for request in late:
            self._forget(request)
        return late

    def _forget(self, request: Request, *, is_trusted: bool = True) -> None:
        for branch in request.branches:
            if branch.is_done:
                continue
            branch.is_done = True
            if branch in self._admission.running:
                self._admission.release(branch, is_trusted=is_trusted)
            else:
                self._queue.remove(branch)
        self._drop_books(request)

    def _fail(self, requests: Sequence[Request]) -> list[Request]:
        failed = list(dict.fromkeys(requests))
        for request in failed:
            self._forget(request, is_trusted=False)
        return failed

    def _drop_books(self, request: Request) -> None:
        del self._requests[request.id]
        self._with_deadline.discard(request.id)

    def _youngest(self) -> Branch:
        return max(self._admission.running, key=lambda branch: branch.age)


def too_long(prompt_tokens: int, context: int) -> ContextLengthExceeded:
    """The error for a prompt that leaves no room for an answer."""
    return ContextLengthExceeded(
        f"the prompt has {prompt_tokens} tokens, the context holds {context}"
        " and must have room for an answer",
        param="messages",
        details={"prompt_tokens": prompt_tokens, "context_length": context},
    )
