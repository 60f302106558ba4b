"""Copy computed prompts and answers out of the backend for the store, some bytes in each step.

Blocks of a dense memory are copied after the first token of the answer, and when it has ended, from
the sequence as long as the pool keeps it. The state of another memory exists at its present length
only. So it is copied when the prompt is computed up to a cut (cuts.py) and waits here for the
first token; and again when the answer has ended, if the sequence is still idle then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from services.engine.backends.base import Backend
from services.engine.backends.errors import BackendError
from services.engine.runner.kvcache.chain import Chain
from services.engine.runner.kvcache.save_queue import SaveJob, SaveQueue
from services.engine.runner.kvcache.store import PromptStore
from services.engine.runner.stepping.kv.pooled_sequence import PooledSequence
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import Chunk, ChunkResult

logger = logging.getLogger(__name__)

_MAX_SNAPSHOT_BYTES = 256 << 20  # that wait for their first token; more are not taken
_MIN_ANSWER_SNAPSHOT = 64  # tokens; shorter sequences are computed as fast


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
    ) -> None:
        self._backend = backend
        self._sequence_pool = sequence_pool
        self._store = store
        self._jobs = SaveQueue(store)
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
                if self._store.saves_whole and sequence.length < _MIN_ANSWER_SNAPSHOT:
                    continue
                start = 0 if is_first or self._store.saves_whole else len(branch.request.prompt)
                self._add_job(sequence, chain, sequence.length, start)
            elif is_first and not self._store.saves_whole:
                self._add_job(sequence, chain, len(branch.request.prompt), start=0)

    def save(self, max_bytes: int, token_seconds: float) -> int:
        """See SaveQueue.save. No operations on memory may wait."""
        self._hand_over_snapshots()
        return self._jobs.save(max_bytes, token_seconds)

    def _hand_over_snapshots(self) -> None:
        waiting = []
        for snapshot in self._snapshots:
            chain = snapshot.branch.request.chain
            if chain is None or not (snapshot.is_due and self._store.has_room()):
                waiting.append(snapshot)
                continue
            self._store.save(chain, 0, snapshot.length, snapshot.state, snapshot.seconds)
        self._snapshots = waiting

    def _add_job(self, sequence: PooledSequence, chain: Chain, length: int, start: int) -> None:
        is_kept = partial(self._is_kept, sequence, length)
        self._jobs.add(SaveJob(chain, length, is_kept, partial(self._copy, sequence), start))

    def _is_kept(self, sequence: PooledSequence, length: int) -> bool:
        """Whether its first tokens are in memory; a whole state is one of exactly its length."""
        is_as_long = sequence.length == length or not self._store.saves_whole
        return is_as_long and self._sequence_pool.holds(sequence, length)

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
