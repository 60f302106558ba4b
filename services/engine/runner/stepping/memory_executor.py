"""What a step plan asks of the backend's memory: operations before the step, checkpoints after."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from services.engine.backends.base import Backend
from services.engine.backends.errors import BackendError
from services.engine.runner.stepping.kv.memory_operations import Cut, Drop, MemoryOperation, Share
from services.engine.runner.stepping.kv.sequence_pool import SequencePool
from services.engine.runner.stepping.scheduler.admission import AdmissionControl
from services.engine.runner.stepping.scheduler.request import Branch
from services.engine.runner.stepping.scheduler.step_plan import StepPlan

logger = logging.getLogger(__name__)


def execute_recorded(
    backend: Backend, sequence_pool: SequencePool, admission: AdmissionControl
) -> None:
    """Execute what was recorded since a step was planned: before cells are taken, and windows read.

    A sequence may only be begun with tokens of another one while that still holds them.
    """
    if operations := sequence_pool.take_operations():
        admission.restart(execute_operations(backend, operations))


def execute_operations(backend: Backend, operations: Iterable[MemoryOperation]) -> frozenset[int]:
    """Execute the operations in order; returns the ids of the sequences that were lost.

    An operation that fails costs its sequence what it held. The backend then holds nothing of it.
    """
    lost: set[int] = set()
    for operation in operations:
        if isinstance(operation, Drop):
            backend.drop(operation.sequence)
            lost.discard(operation.sequence)
            continue
        target = operation.target if isinstance(operation, Share) else operation.sequence
        try:
            _execute(backend, operation, lost)
        except BackendError as error:
            logger.warning("a sequence was lost in memory", extra={"reason": str(error)})
            backend.drop(target)
            lost.add(target)
    return frozenset(lost)


def save_checkpoints(backend: Backend, plan: StepPlan) -> dict[Branch, bytes]:
    """The states at the ends of the computed chunks that ask for one. Raises BackendError."""
    checkpoints: dict[Branch, bytes] = {}
    if not backend.takes_checkpoints:
        return checkpoints
    for chunk in plan.chunks:
        if chunk.ends_at_checkpoint:
            assert chunk.branch.sequence is not None
            length = chunk.start + chunk.count
            checkpoints[chunk.branch] = backend.save(chunk.branch.sequence.id, length, length)
    return checkpoints


def _execute(backend: Backend, operation: Share | Cut, lost: set[int]) -> None:
    if isinstance(operation, Cut):
        backend.cut(operation.sequence, operation.start)
        return
    if operation.source in lost:
        raise BackendError("the sequence to share from was lost")
    backend.share(operation.source, operation.target, operation.end)
    checkpoint = operation.checkpoint
    if checkpoint is not None and not backend.load(operation.target, operation.end, checkpoint):
        raise BackendError("the checkpoint does not fit")
