"""The checkpoints of a recurrent memory: states at exact lengths, in main memory, within a limit.

A checkpoint belongs to all sequences that begin with its tokens, and goes with the last of them.
Beyond the limit, the one goes that was not used for longest; but one that requests have begun with
is passed over once for that.
"""

from __future__ import annotations

from collections import OrderedDict

from services.engine.runner.stepping.kv.pooled_sequence import Checkpoint, PooledSequence


class Checkpoints:
    """All checkpoints of a context."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Checkpoint, None] = OrderedDict()  # least recently used first

    def add(self, sequence: PooledSequence, state: bytes) -> None:
        """Keep the state of the sequence's present length, within the limit."""
        previous = sequence.checkpoints.pop(sequence.length, None)
        if previous is not None:
            self._release(previous, sequence)
        checkpoint = Checkpoint(sequence.length, state, [sequence])
        sequence.checkpoints[sequence.length] = checkpoint
        self._kept[checkpoint] = None
        self._bytes += len(state)
        while self._bytes > self._max_bytes:
            self._thin_out()

    def share(self, source: PooledSequence, target: PooledSequence) -> None:
        """`target` begins with tokens of `source`, so that it has their checkpoints too."""
        for length, checkpoint in source.checkpoints.items():
            if length <= target.length:
                target.checkpoints[length] = checkpoint
                checkpoint.holders.append(target)

    def mark_used(self, checkpoint: Checkpoint) -> None:
        """A request begins with it."""
        checkpoint.is_used = True
        self._kept.move_to_end(checkpoint)

    def drop(self, sequence: PooledSequence) -> None:
        """The sequence is forgotten."""
        for checkpoint in sequence.checkpoints.values():
            self._release(checkpoint, sequence)
        sequence.checkpoints.clear()

    def _release(self, checkpoint: Checkpoint, holder: PooledSequence) -> None:
        checkpoint.holders.remove(holder)
        if not checkpoint.holders:
            self._forget(checkpoint)

    def _thin_out(self) -> None:
        checkpoint = next(iter(self._kept))
        if checkpoint.is_used:
            checkpoint.is_used = False
            self._kept.move_to_end(checkpoint)
            return
        for holder in checkpoint.holders:
            del holder.checkpoints[checkpoint.length]
        self._forget(checkpoint)

    def _forget(self, checkpoint: Checkpoint) -> None:
        del self._kept[checkpoint]
        self._bytes -= len(checkpoint.state)
