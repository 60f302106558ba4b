"""A loop without threads: the real scheduler and pool over the fake backend, cells compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from services.engine.backends.base import Outcome
from services.engine.backends.fake import FakeBackend
from services.engine.backends.fake_behaviour import Behaviour
from services.engine.core import MemoryPolicy
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.memory_executor import (
    execute_operations,
    execute_recorded,
    save_checkpoints,
)
from services.engine.runner.stepping.scheduler.request import Branch, Request
from services.engine.runner.stepping.scheduler.scheduler import Scheduler
from services.engine.runner.stepping.scheduler.step_plan import (
    Chunk,
    ChunkResult,
    StepPlan,
    StepResult,
)
from services.engine.runner.stepping.step_builder import fill_step


def request(
    id_: int, prompt: Sequence[int] | str = "hello", tokens: int = 8, **changes: Any
) -> Request:
    """Build a request for at most `tokens` tokens of answer."""
    ids = list(prompt.encode()) if isinstance(prompt, str) else list(prompt)
    return Request(id_, ids, max_length=len(ids) + tokens, **changes)


class Simulation:
    """Greedy answers to requests; the clock advances only with the steps."""

    def __init__(
        self,
        *,
        cells: int = 512,
        max_sequences: int = 4,
        max_step_tokens: int = 64,
        max_queued: int = 64,
        drafts: bool = False,
        target_step_seconds: float | None = 0.05,
        break_even_rows: int | None = None,
        shares_cells: bool = True,
        behaviour: Behaviour | None = None,
    ) -> None:
        self.backend = FakeBackend(
            cells=cells,
            max_step_tokens=max_step_tokens,
            max_sequences=max_sequences,
            behaviour=behaviour,
        )
        self.sequence_pool = SequencePool(
            capacity=cells,
            id_count=self.backend.sequence_id_count,
            policy=self.backend.info.memory_policy,
            window=self.backend.info.window,
            takes_checkpoints=self.backend.takes_checkpoints,
            shares_cells=shares_cells,
            break_even_rows=break_even_rows,
        )
        self.scheduler = Scheduler(
            self.sequence_pool,
            context_length=cells,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
            max_queued=max_queued,
            target_step_seconds=target_step_seconds,
            row_costs=self.backend.row_costs,
        )
        self.now = 0.0
        self.step_seconds = 0.01
        self.prompt_token_seconds = 0.0
        self.answers: dict[int, dict[int, list[int]]] = {}
        self.ended: dict[int, str] = {}  # how a request ended, by id
        self.started: list[int] = []
        self.cached: dict[int, int] = {}  # saved tokens by request, as reported at its start
        self.computed = 0  # tokens the backend computed
        self._draft = propose_draft if drafts else None

    def add(self, added: Request) -> None:
        added.arrived_at = self.now
        self.scheduler.add(added)
        self.answers[added.id] = {branch.index: [] for branch in added.branches}

    def cancel(self, id_: int) -> None:
        if self.scheduler.cancel(id_) is not None:
            self._end(id_, "cancelled")

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule(self.now, self._draft)
        lost = execute_operations(self.backend, plan.operations)
        if lost:
            plan = self.scheduler.restart(plan, lost)
        for branch in plan.started:
            self.started.append(branch.request.id)
            assert branch.cached_tokens is not None
            self.cached.setdefault(branch.request.id, branch.cached_tokens)
        for request in plan.expired:
            self._end(request.id, "expired")
        for request in plan.too_long:
            self._end(request.id, "too long")
        assert self.backend.cells_used == self.sequence_pool.cells.used
        if plan.chunks:
            self._compute(plan)
        execute_recorded(self.backend, self.sequence_pool, self.scheduler.admission)
        self.sequence_pool.refresh_windows(self.backend.first_position)
        return plan

    def run(self, max_steps: int = 5000) -> None:
        """Run until nothing is left to do."""
        for _ in range(max_steps):
            if self.scheduler.is_idle:
                return
            self.step()
        raise AssertionError(f"still busy after {max_steps} steps")

    def _compute(self, plan: StepPlan) -> None:
        fill_step(self.backend.step, plan.chunks)
        seconds = self.step_seconds + plan.prompt_tokens * self.prompt_token_seconds
        self.now += seconds
        if self.backend.run() is Outcome.KV_FULL:
            for request in self.scheduler.refuse(plan):
                self._end(request.id, "no room")
            return
        self.computed += plan.size
        checkpoints = save_checkpoints(self.backend, plan)
        results = self._sample(plan)
        self.scheduler.apply(plan, StepResult(results, seconds, checkpoints))
        finished = [
            chunk.branch.request
            for chunk, result in zip(plan.chunks, results, strict=True)
            if result.is_finished
        ]
        for owner in dict.fromkeys(finished):
            if owner.is_done:
                self._end(owner.id, "done")

    def _sample(self, plan: StepPlan) -> list[ChunkResult]:
        row = 0
        results = []
        for chunk in plan.chunks:
            result = ChunkResult()
            if chunk.outputs and chunk.is_last:
                first = row + chunk.outputs - 1 - len(chunk.drafts)
                result = self._verify(chunk, first)
                assert result.sampled is not None
                self.answers[chunk.branch.request.id][chunk.branch.index] += result.sampled
            results.append(result)
            row += chunk.outputs
        return results

    def _verify(self, chunk: Chunk, row: int) -> ChunkResult:
        branch, drafts = chunk.branch, chunk.drafts
        tokens: list[int] = []
        is_finished = False
        for place in range(1 + len(drafts)):
            token = int(self.backend.logits(row + place).argmax())
            if token in self.backend.vocabulary.end_tokens:
                is_finished = True
                break
            tokens.append(token)
            is_finished = len(branch.tokens) + len(tokens) >= branch.request.max_length
            if is_finished or place == len(drafts) or token != drafts[place]:
                break
        return ChunkResult(tokens, is_finished)

    def _end(self, id_: int, how: str) -> None:
        assert id_ not in self.ended, f"request {id_} ended twice"
        self.ended[id_] = how


@cache
def compute_alone(prompt: bytes, max_tokens: int) -> tuple[int, ...]:
    """The fake's answer to a prompt, computed alone and one token at a time."""
    backend = FakeBackend(cells=len(prompt) + max_tokens + 1, max_step_tokens=1, max_sequences=1)
    tokens = list(prompt)
    for position in range(len(prompt) + max_tokens):
        if position == len(tokens):
            break
        step = backend.step
        step.tokens[0], step.sequences[0] = tokens[position], 0
        step.wants_logits[0], step.size = 1, 1
        assert backend.run() is Outcome.OK
        if position >= len(prompt) - 1 and len(tokens) < len(prompt) + max_tokens:
            token = int(backend.logits(0).argmax())
            if token in backend.vocabulary.end_tokens:
                break
            tokens.append(token)
    return tuple(tokens[len(prompt) :])


def expected(of: Request) -> tuple[int, ...]:
    return compute_alone(bytes(of.prompt), of.max_length - len(of.prompt))


def propose_draft(branch: Branch, limit: int, _min_acceptance: float) -> list[int]:
    """Propose some correct tokens, by the length of the text, and then a wrong one."""
    true = compute_alone(bytes(branch.request.prompt), 64)
    so_far = len(branch.tokens) - len(branch.request.prompt)
    right = list(true[so_far : so_far + len(branch.tokens) % 4])
    return (right + [ord("#")])[:limit]


def recurrent() -> Behaviour:
    return Behaviour(memory_policy=MemoryPolicy.RECURRENT, cached_sequences=2)
