"""Give the backend the states that were fetched from the store, some bytes in each step."""

from __future__ import annotations

import logging

from services.engine.backends.base import Backend
from services.engine.backends.errors import BackendError
from services.engine.runner.kvcache.fetch import Fetch, StoredState
from services.engine.runner.stepping.kv.pooled_sequence import PooledSequence
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.memory_executor import execute_recorded
from services.engine.runner.stepping.scheduler.cut_selection import list_cuts
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)


class PromptRestorer:
    """Continues the branches that fetch. A fetch that fails ends early; the rest is computed."""

    def __init__(self, backend: Backend, scheduler: Scheduler, sequence_pool: SequencePool) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._sequence_pool = sequence_pool

    def restore(self, max_bytes: int) -> int:
        """Load the states that are ready, until about `max_bytes` are copied; returns how many."""
        copied = 0
        for branch in self._scheduler.admission.fetching:
            fetch = branch.fetch
            if fetch is None:  # making room for another branch has lost its sequence
                continue
            assert isinstance(fetch, Fetch)
            for stored in fetch.take_ready(max_bytes - copied):
                copied += len(stored.state)
                self._load(branch, stored)
            if branch.fetch is not None and fetch.is_over:
                self._scheduler.admission.end_fetch(branch)
        return copied

    def wait(self, seconds: float) -> None:
        """Wait for the next state of the first branch that fetches; at most so long."""
        for branch in self._scheduler.admission.fetching[:1]:
            assert isinstance(branch.fetch, Fetch)
            branch.fetch.wait(seconds)

    def _load(self, branch: Branch, stored: StoredState) -> None:
        sequence = branch.sequence
        assert sequence is not None
        if stored.start != sequence.length or not self._make_room(stored.end - stored.start):
            self._scheduler.admission.end_fetch(branch)
            return
        if self._sequence_pool.shares_cells:
            execute_recorded(self._backend, self._sequence_pool, self._scheduler.admission)
        try:
            is_loaded = self._backend.load(sequence.id, stored.start, stored.state)
        except BackendError as error:
            logger.warning("a stored state was not loaded", extra={"reason": str(error)})
            is_loaded = False
        if is_loaded:
            self._sequence_pool.grow(sequence, stored.end)
        # A window holds the end of the state only, and may have taken cells of other sequences.
        self._sequence_pool.refresh_windows(self._backend.first_position)
        if not is_loaded:
            self._scheduler.admission.end_fetch(branch, is_lost=True)
            return
        branch.record_stored(stored.end - stored.start, stored.tier, stored.seconds)
        if self._sequence_pool.takes_checkpoints and stored.end in list_cuts(branch.request):
            self._keep(sequence)

    def _keep(self, sequence: PooledSequence) -> None:
        """Let the next prompt begin here without the store, when this one has gone on."""
        length = sequence.length
        try:
            state = self._backend.save(sequence.id, length, length)
        except BackendError as error:
            logger.warning("a checkpoint was not saved", extra={"reason": str(error)})
        else:
            self._sequence_pool.add_checkpoint(sequence, state)

    def _make_room(self, tokens: int) -> bool:
        """Evict idle sequences until so many tokens fit; False where they do not."""
        while self._sequence_pool.cells.free < tokens:
            if not self._sequence_pool.evict():
                return False
        return True
