"""Execute the memory operations of a step plan on the backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from services.engine.backends.base import Backend
from services.engine.backends.errors import BackendError
from services.engine.runner.stepping.kv.memory_operations import Cut, Drop, MemoryOperation, Share

logger = logging.getLogger(__name__)


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
