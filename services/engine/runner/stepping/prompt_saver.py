"""Copy computed prompts and answers out of the backend for the store, some bytes in each step.

Blocks of a dense memory are copied after the first token of the answer, and when it has ended, from
the sequence as long as the pool keeps it. The state of another memory exists at its present length
only. So it is copied when the prompt is computed up to a cut (cuts.py) and waits here for the
first token; and again when the answer has ended, if the sequence is still idle then.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.engine.backends.base import Backend
from services.engine.backends.errors import BackendError
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.stepping.kv.pooled_sequence import PooledSequence
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import Chunk, ChunkResult

logger = logging.getLogger(__name__)

_MAX_JOBS = 64  # the oldest is left out beyond that
_MAX_SNAPSHOT_BYTES = 256 << 20  # that wait for their first token; more are not taken
_MIN_ANSWER_SNAPSHOT = 64  # tokens; shorter sequences are computed as fast


@dataclass(slots=True, eq=False)
class _Job:
    """The first `length` tokens of a sequence, of which the store may want parts."""

    sequence: PooledSequence
    chain: Chain
    length: int
    start: int  # what is before it belongs to an earlier job
    parts: deque[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Snapshot:
    """The state of a prompt at a cut."""

    branch: Branch
    length: int
    state: bytes
    seconds: float

    @property
    def is_due(self) -> bool:
        """Whether the first token of the answer has come, or will not come."""
        return self.branch.is_done or len(self.branch.tokens) > len(self.branch.request.prompt)


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """A branch that has got its first token, or whose answer has ended, and its sequence."""

    branch: Branch
    sequence: PooledSequence
    has_ended: bool


class PromptSaver:
    """What waits to be saved. Nothing is copied while the store has no room."""

    def __init__(
        self,
        backend: Backend,
        sequence_pool: SequencePool,
        store: PromptStore,
        *,
        saves_whole: bool,
    ) -> None:
        """`saves_whole`: whether states are those of whole sequences, not of blocks."""
        self._backend = backend
        self._sequence_pool = sequence_pool
        self._store = store
        self._saves_whole = saves_whole
        self._jobs: deque[_Job] = deque()
        self._snapshots: list[_Snapshot] = []

    @property
    def pending(self) -> int:
        """Number of sequences and states that wait."""
        return len(self._jobs) + len(self._snapshots)

    def take_snapshot(self, chunks: Sequence[Chunk], token_seconds: float) -> None:
        """Copy the state of the prompt that a step has computed up to a cut; plans have one of them."""
        for chunk in chunks:
            branch, length = chunk.branch, chunk.start + chunk.count
            if length not in branch.snapshot_lengths or branch.sequence is None:
                continue
            branch.snapshot_lengths.discard(length)
            if sum(len(snapshot.state) for snapshot in self._snapshots) > _MAX_SNAPSHOT_BYTES:
                continue
            state = self._copy(branch.sequence, 0, length)
            if state is not None:
                self._snapshots.append(_Snapshot(branch, length, state, token_seconds * length))

    def find_progress(
        self, chunks: Sequence[Chunk], results: Sequence[ChunkResult]
    ) -> list[Progress]:
        """What a step has reached. Call it before the scheduler takes the sequences away."""
        return [
            Progress(chunk.branch, chunk.branch.sequence, result.is_finished)
            for chunk, result in zip(chunks, results, strict=True)
            if (result.is_finished or (result.sampled and _is_of_prompt(chunk)))
            and chunk.branch.sequence is not None
            and chunk.branch.request.chain is not None
        ]

    def queue(self, reached: Sequence[Progress]) -> None:
        """Queue the sequences that are to be saved. Call it after the scheduler's `apply`."""
        for progress in reached:
            branch, sequence = progress.branch, progress.sequence
            chain = branch.request.chain
            assert chain is not None
            is_first = branch.index == 0 and _has_one_token(branch)
            if progress.has_ended:
                chain = chain.copy()
                chain.extend(branch.tokens[chain.length : sequence.length])
                if self._saves_whole and sequence.length < _MIN_ANSWER_SNAPSHOT:
                    continue
                start = 0 if is_first else len(branch.request.prompt)
                self._jobs.append(_Job(sequence, chain, sequence.length, start))
            elif is_first and not self._saves_whole:
                length = len(branch.request.prompt)
                self._jobs.append(_Job(sequence, chain, length, start=0))
        while len(self._jobs) > _MAX_JOBS:
            self._jobs.popleft()

    def save(self, max_bytes: int, token_seconds: float) -> int:
        """Give the store what it wants, until about `max_bytes` are copied; returns how many.

        No operations on memory may wait. `token_seconds`: the time that computing a token takes.
        """
        self._hand_over_snapshots()
        copied = 0
        while self._jobs and copied < max_bytes and self._store.has_room():
            job = self._jobs[0]
            part = self._next_part(job)
            state = self._copy(job.sequence, *part) if part is not None else None
            if part is None or state is None:
                self._jobs.popleft()
                continue
            copied += len(state)
            start, end = part
            self._store.save(job.chain, start, end, state, token_seconds * (end - start))
        return copied

    def _hand_over_snapshots(self) -> None:
        waiting = []
        for snapshot in self._snapshots:
            chain = snapshot.branch.request.chain
            if chain is None or not (snapshot.is_due and self._store.has_room()):
                waiting.append(snapshot)
                continue
            self._store.save(chain, 0, snapshot.length, snapshot.state, snapshot.seconds)
        self._snapshots = waiting

    def _next_part(self, job: _Job) -> tuple[int, int] | None:
        """The next part of the sequence to copy; None where the job is over."""
        sequence = job.sequence
        if self._saves_whole and sequence.length != job.length:
            return None
        if not self._sequence_pool.holds(sequence, job.length):
            return None
        if job.parts is None:
            start = 0 if self._saves_whole else job.start
            job.parts = deque(self._store.wants(job.chain, job.length, start=start))
        return job.parts.popleft() if job.parts else None

    def _copy(self, sequence: PooledSequence, start: int, end: int) -> bytes | None:
        try:
            return self._backend.save(sequence.id, start, end)
        except BackendError as error:
            logger.warning("a state was not saved", extra={"reason": str(error)})
            return None


def _is_of_prompt(chunk: Chunk) -> bool:
    return chunk.start < len(chunk.branch.request.prompt)


def _has_one_token(branch: Branch) -> bool:
    """Whether its answer has no more than its first token, so that no job has saved its prompt."""
    return len(branch.tokens) <= len(branch.request.prompt) + 1
