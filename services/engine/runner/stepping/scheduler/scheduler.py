"""Decide which tokens of which answers are computed in the next step.

A pure state machine: no thread, no lock, no backend; the clock's reading is passed in. The loop
calls it from one thread, in the order schedule -> (operations, run) -> apply | refuse | discard.

    schedule  1 forget requests past their deadline  2 release followers  3 admit
              4 every generating branch              5 parts of prompts, within the time limit
              6 make room: evict cached sequences, then preempt the youngest
              7 drafts, where they cost little
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from operator import attrgetter

from services.engine.core import RowCosts
from services.engine.queue_shares import has_place
from services.engine.runner.errors import build_too_long_error
from services.engine.runner.stepping.drafting.draft_costs import DraftCosts
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.admission import AdmissionControl
from services.engine.runner.stepping.scheduler.chunking import (
    build_decode_chunks,
    build_prompt_chunks,
)
from services.engine.runner.stepping.scheduler.drafts import ProposeDraft, add_drafts
from services.engine.runner.stepping.scheduler.fair_queue import FairQueue
from services.engine.runner.stepping.scheduler.following import group_followers
from services.engine.runner.stepping.scheduler.prefill_budget import PrefillBudget
from services.engine.runner.stepping.scheduler.prefill_shares import PrefillShares
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.engine.runner.stepping.scheduler.step_plan import (
    Chunk,
    ChunkResult,
    StepPlan,
    StepResult,
    count_tokens,
)
from services.engine.runner.stepping.scheduler.stored_prefixes import StoredPrefixes
from services.shared.errors import EngineBusy, InvalidRequest

logger = logging.getLogger(__name__)


class Scheduler:
    """All requests of a runner, waiting and running."""

    def __init__(
        self,
        sequence_pool: SequencePool,
        *,
        context_length: int,
        max_sequences: int,
        max_step_tokens: int,
        max_queued: int,
        target_step_seconds: float | None,
        row_costs: RowCosts,
        stored_prefixes: StoredPrefixes | None = None,
    ) -> None:
        """`max_sequences` limits the running branches, `max_queued` the waiting ones."""
        self._context_length = context_length
        self._sequence_pool = sequence_pool
        self._cell_capacity = sequence_pool.cells.capacity
        self._max_step_tokens = max_step_tokens
        self._max_queued = max_queued
        self._prefill_budget = PrefillBudget(
            target_step_seconds=target_step_seconds,
            max_step_tokens=max_step_tokens,
            row_costs=row_costs,
        )
        self._row_costs = row_costs
        self._queue = FairQueue()
        self._draft_costs = DraftCosts()
        self.admission = AdmissionControl(
            sequence_pool, self._queue, stored_prefixes, max_sequences=max_sequences
        )
        self._requests: dict[int, Request] = {}
        self._serial = 0
        self._prefill_shares = PrefillShares()
        self._ids_with_deadline: set[int] = set()

    @property
    def running(self) -> int:
        """Number of running branches."""
        return len(self.admission.running)

    @property
    def queued(self) -> int:
        """Number of waiting branches."""
        return len(self._queue)

    @property
    def token_seconds(self) -> float:
        """The estimated time that a prompt token takes to compute; 0 before one was measured."""
        return self._prefill_budget.token_seconds or 0.0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until a request is added."""
        return not self._requests

    def add(self, request: Request) -> None:
        """Queue a request. Raises InvalidRequest, ContextLengthExceeded or EngineBusy."""
        context = min(self._context_length, self._cell_capacity)
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if len(request.prompt) >= context:
            raise build_too_long_error(len(request.prompt), context)
        waiting, limit = self._queue.list_principals(), max(self._max_queued, request.n)
        if not has_place(request.principal, request.n, waiting, limit=limit):
            raise EngineBusy(f"{len(self._queue)} requests are waiting already, try again later")
        if not self._requests:
            self._sequence_pool.cells.capacity = self._cell_capacity
        self._serial += 1
        request.serial = self._serial
        request.max_length = min(request.max_length, context)
        request.branches = [Branch(request, i, list(request.prompt)) for i in range(request.n)]
        self._requests[request.id] = request
        if request.deadline is not None:
            self._ids_with_deadline.add(request.id)
        for branch in request.branches:
            self._queue.add(branch)

    def cancel(self, request_id: int) -> Request | None:
        """Forget a request, whether it waits or runs; None if the id is unknown."""
        if (request := self._requests.get(request_id)) is not None:
            self._forget(request)
        return request

    def schedule(self, now: float, propose_draft: ProposeDraft | None = None) -> StepPlan:
        """Plan the next step. The plan has no chunks when there is nothing to compute."""
        expired = self._expire(now)
        self.admission.release_followers()
        if len(self._queue):
            self.admission.admit(now)
        started = self.admission.take_started()
        chunks, too_long = self._make_room(self._plan_chunks())
        if propose_draft is not None and not self._sequence_pool.is_recurrent:
            room = min(self._max_step_tokens, self._sequence_pool.cells.free)
            chunks = add_drafts(
                chunks, propose_draft, room - count_tokens(chunks), self._draft_costs
            )
        if not self._sequence_pool.shares_cells:  # computed together while ids ascend by one
            chunks.sort(key=attrgetter("branch.sequence.id"))
        return StepPlan(
            operations=self._sequence_pool.take_operations(),
            chunks=chunks,
            started=started,
            expired=expired,
            too_long=too_long,
            positions=self._queue.take_changed_positions(now),
        )

    def apply(self, plan: StepPlan, result: StepResult) -> None:
        """Take in the result of a plan whose step was computed and sampled."""
        decodes = sum(chunk.count == 1 for chunk in plan.chunks)
        self._prefill_budget.observe(
            prompt_tokens=plan.prompt_tokens, decodes=decodes, seconds=result.seconds
        )
        if not plan.prompt_tokens:
            self._draft_costs.observe(
                branches=decodes, drafted=plan.size - decodes, seconds=result.seconds
            )
        if (rows := self._prefill_budget.break_even_rows) is not None:
            self._sequence_pool.break_even_rows = rows
        self._sequence_pool.count_rows(plan.size)  # before what ends with this step becomes idle
        for chunk, chunk_result in zip(plan.chunks, result.chunks, strict=True):
            if not chunk.branch.is_done:  # the failure of a sibling may just have ended it
                self._advance(chunk, chunk_result, result.checkpoints.get(chunk.branch))

    def refuse(self, plan: StepPlan) -> list[Request]:
        """The backend had no room for a step that should fit: lower the capacity, and make room.

        The capacity is restored when the next request comes to an idle runner.

        Returns the requests that cannot fit; they are forgotten.
        """
        cells = self._sequence_pool.cells
        logger.warning(
            "the backend has less free memory than expected, making room",
            extra={"tokens": plan.size, "cells_used": cells.used, "cells": cells.capacity},
        )
        cells.capacity = min(cells.capacity, cells.used + plan.size - 1)
        if self._sequence_pool.evict():
            return []
        if self.running > 1:
            self.admission.preempt(self._youngest())
            return []
        return self._fail([chunk.branch.request for chunk in plan.chunks])

    def restart(self, plan: StepPlan, lost: frozenset[int]) -> StepPlan:
        """The backend lost these sequences: the branches that hold them begin again.

        Returns the plan without their chunks.
        """
        restarted = self.admission.restart(lost)
        chunks = [chunk for chunk in plan.chunks if chunk.branch not in restarted]
        return dataclasses.replace(plan, chunks=chunks)

    def discard(self, plan: StepPlan) -> list[Request]:
        """The step failed, with an unknown effect on memory: forget its requests and sequences."""
        return self._fail([chunk.branch.request for chunk in plan.chunks])

    def _plan_chunks(self) -> list[Chunk]:
        running = self.admission.running
        decodes = build_decode_chunks(running)
        prompts = [b for b in running if not b.is_waiting and b.pending > 1]
        if not prompts:
            return decodes
        room = self._max_step_tokens - len(decodes)
        budget = self._prefill_budget.max_prompt_tokens(decodes=len(decodes), prompts=len(prompts))
        return decodes + build_prompt_chunks(
            self._prefill_shares,
            prompts,
            group_followers(running),
            min(room, budget),
            beside=decodes,
            cells_used=self._sequence_pool.cells.used,
            row_costs=self._row_costs,
        )

    def _make_room(self, chunks: list[Chunk]) -> tuple[list[Chunk], list[Request]]:
        """Evict, then preempt, until the step's tokens fit.

        Returns the remaining chunks, and the request that does not fit even alone.
        """
        cells = self._sequence_pool.cells
        while count_tokens(chunks) > cells.free:
            if self._sequence_pool.evict():
                continue
            if self.running == 1:
                return [], self._fail([self.admission.running[0].request])
            victim = self._youngest()
            self.admission.preempt(victim)
            chunks = [chunk for chunk in chunks if chunk.branch is not victim]
        return chunks, []

    def _advance(self, chunk: Chunk, result: ChunkResult, checkpoint: bytes | None) -> None:
        branch = chunk.branch
        sequence = branch.sequence
        assert sequence is not None
        if result.is_failed:
            self._fail([branch.request])
            return
        computed = chunk.start + chunk.count
        if result.sampled:
            branch.tokens += result.sampled
            # All sampled tokens but the last were drafted, so they are in memory already.
            computed += len(result.sampled) - 1
        self._sequence_pool.grow(sequence, computed)
        if chunk.drafts:
            self._sequence_pool.cut(sequence, chunk.start + chunk.size)
        if checkpoint is not None:
            self._sequence_pool.add_checkpoint(sequence, checkpoint)
        elif chunk.ends_at_checkpoint:
            self._sequence_pool.keep_prefix(sequence)
        if result.sampled is None or chunk.count > 1:
            self.admission.update_leader(branch)
        if result.is_finished:
            self._finish(branch)

    def _finish(self, branch: Branch) -> None:
        branch.is_done = True
        self.admission.release(branch)
        if branch.request.is_done:
            self._remove(branch.request)

    def _expire(self, now: float) -> list[Request]:
        dated = [self._requests[id_] for id_ in self._ids_with_deadline]
        late = [r for r in dated if r.deadline is not None and r.deadline <= now]
        for request in late:
            self._forget(request)
        return late

    def _forget(self, request: Request, *, is_trusted: bool = True) -> None:
        for branch in request.branches:
            if branch.is_done:
                continue
            branch.is_done = True
            if branch in self.admission.running:
                self.admission.release(branch, is_trusted=is_trusted)
            else:
                self._queue.remove(branch)
        self._remove(request)

    def _fail(self, requests: Sequence[Request]) -> list[Request]:
        failed = list(dict.fromkeys(requests))
        for request in failed:
            self._forget(request, is_trusted=False)
        return failed

    def _remove(self, request: Request) -> None:
        del self._requests[request.id]
        self._ids_with_deadline.discard(request.id)

    def _youngest(self) -> Branch:
        return max(self.admission.running, key=lambda branch: branch.age)
