"""One llama.cpp context: its memory and its steps, with checks for what aborts the process.

llama.cpp calls abort() for a batch larger than n_batch, for more outputs than were reserved, and
for logits that were not requested. Each of these is checked first, and raises instead.
"""

from __future__ import annotations

import ctypes
import logging
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.engine.backends.base import Ints, Logits, Outcome, Step, computed_row
from services.engine.backends.errors import BackendError
from services.engine.backends.llamacpp.failures import build_load_error
from services.engine.backends.llamacpp.library import capture_log
from services.engine.backends.llamacpp.model import ENCODER_REASON, LlamaModel
from services.engine.backends.llamacpp.settings import build_context_parameters
from services.engine.core import LoadConfig
from services.shared.errors import ModelLoadFailed

logger = logging.getLogger(__name__)

_KV_FULL = 1  # llama_decode: no room, and nothing has changed
_ABORTED = 2
_PARTIAL_ONLY = (
    1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: the part of the state that is not stored in cells
)
_BYTES = ctypes.POINTER(ctypes.c_uint8)


class LlamaContext:
    """The memory of one model, and computation in it. One thread only."""

    def __init__(self, lib: ModuleType, model: LlamaModel, config: LoadConfig) -> None:
        """Create the context. Raises ModelLoadFailed where that is not possible."""
        self._lib = lib
        self.handle = _create(lib, model, config)
        self._memory = lib.llama_get_memory(self.handle)
        if not self._memory:  # llama.cpp counts BERT and the like as decoders, but they have none
            lib.llama_free(self.handle)
            raise ModelLoadFailed(ENCODER_REASON)
        self._vocab_size = model.vocabulary.size
        params = build_context_parameters(lib, config, is_recurrent=model.is_recurrent)
        self.max_outputs = int(params.n_outputs_max)
        self.sequence_id_count = int(params.n_seq_max)
        self.cells = int(lib.llama_n_ctx(self.handle))
        self.step = Step.with_capacity(int(params.n_batch))
        self._batch, self._sequence_ids = _build_batch(lib, self.step)
        self._outputs = 0
        self._rows: NDArray[np.float32] = np.zeros((0, self._vocab_size), np.float32)
        self._rows_address = 0

    def run(self) -> Outcome:
        """Compute the step; see Backend.run."""
        step = self.step
        wanted = int(np.count_nonzero(step.wants_logits[: step.size]))
        if not 0 < step.size <= len(step.tokens) or wanted > self.max_outputs:
            raise BackendError(f"step of {step.size} tokens and {wanted} outputs is out of bounds")
        self._outputs = 0
        self._batch.n_tokens = step.size
        status = self._lib.llama_decode(self.handle, self._batch)
        if status == _KV_FULL:
            return Outcome.KV_FULL
        if status != 0:
            reason = "aborted" if status == _ABORTED else f"llama_decode returned {status}"
            raise BackendError(reason)
        self._lib.llama_synchronize(self.handle)
        self._outputs = wanted
        if wanted:
            self._view_logits(wanted)
        return Outcome.OK

    def logits(self, output: int) -> Logits:
        """See Backend.logits. The row is a view of llama.cpp's own buffer."""
        return computed_row(self._rows, self._outputs, output)

    def share(self, source: int, target: int, end: int) -> None:
        """See Backend.share. The cells get a further owner; nothing is copied."""
        # All of a sequence is asked for as such: some memories abort on an explicit end.
        is_whole = end > self._lib.llama_memory_seq_pos_max(self._memory, source)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, -1 if is_whole else end)

    def first_position(self, sequence: int) -> int:
        """See Backend.first_position. llama.cpp reports the layers that have lost most."""
        return max(int(self._lib.llama_memory_seq_pos_min(self._memory, sequence)), 0)

    def cut(self, sequence: int, start: int) -> None:
        """See Backend.cut."""
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise BackendError("this memory cannot forget part of a sequence")

    def drop(self, sequence: int) -> None:
        """See Backend.drop. Every memory can forget a whole sequence."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def checkpoint(self, sequence: int) -> bytes:
        """See Backend.checkpoint."""
        size = int(self._lib.llama_state_seq_get_size_ext(self.handle, sequence, _PARTIAL_ONLY))
        buffer = (ctypes.c_uint8 * size)()
        got = self._lib.llama_state_seq_get_data_ext(
            self.handle, ctypes.cast(buffer, _BYTES), size, sequence, _PARTIAL_ONLY
        )
        if got == 0 or got != size:
            raise BackendError("the sequence's state could not be read")
        return bytes(buffer)

    def restore(self, sequence: int, checkpoint: bytes) -> None:
        """See Backend.restore."""
        buffer = (ctypes.c_uint8 * len(checkpoint)).from_buffer_copy(checkpoint)
        if not self._lib.llama_state_seq_set_data_ext(
            self.handle, ctypes.cast(buffer, _BYTES), len(checkpoint), sequence, _PARTIAL_ONLY
        ):
            raise BackendError("the checkpoint does not fit this context")

    def can_cut(self) -> bool:
        """Test with two tokens whether memory can forget part of a sequence; clears the memory."""
        step = self.step
        step.tokens[:2], step.positions[:2], step.sequences[:2] = 0, (0, 1), 0
        step.wants_logits[:2], step.size = (0, 1), 2
        outcome = self.run()
        can = outcome is Outcome.OK and bool(self._lib.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self._lib.llama_memory_clear(self._memory, True)
        return can

    def close(self) -> None:
        """Free memory and buffers. Safe to call twice."""
        if self.handle is not None:
            self._rows = np.zeros((0, self._vocab_size), np.float32)
            self._lib.llama_free(self.handle)
            self.handle = None

    def _view_logits(self, rows: int) -> None:
        pointer = self._lib.llama_get_logits(self.handle)
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        if address == 0:
            raise BackendError("llama.cpp returned no logits")
        # llama.cpp moves the buffer only when it grows, so the view is recreated only then.
        if address != self._rows_address or rows > len(self._rows):
            flat = (ctypes.c_float * (rows * self._vocab_size)).from_address(address)
            self._rows = np.frombuffer(memoryview(flat), np.float32).reshape(rows, self._vocab_size)
            self._rows_address = address


def _create(lib: ModuleType, model: LlamaModel, config: LoadConfig) -> Any:
    params = build_context_parameters(lib, config, is_recurrent=model.is_recurrent)
    with capture_log() as lines:
        handle = lib.llama_init_from_model(model.handle, params)
    if not handle:
        logger.error("llama.cpp could not create the context", extra={"lines": lines[-4:]})
        raise build_load_error(lines)
    return handle


def _build_batch(lib: ModuleType, step: Step) -> tuple[Any, tuple[Ints, NDArray[np.uint64]]]:
    """Build a llama_batch over the step's own arrays, so that slicing numpy arrays fills it.

    Every token has one sequence: `seq_id[i]` points at `step.sequences[i]`. The second result is
    the arrays that only llama.cpp reads; keep it as long as the batch.
    """
    capacity = len(step.tokens)
    counts = np.ones(capacity, np.int32)
    pointers = step.sequences.ctypes.data + 4 * np.arange(capacity, dtype=np.uint64)
    field = dict(lib.llama_batch._fields_)

    def point_to(array: NDArray[Any], name: str) -> Any:
        return ctypes.cast(array.ctypes.data, field[name])

    batch = lib.llama_batch(
        n_tokens=0,
        token=point_to(step.tokens, "token"),
        embd=None,
        pos=point_to(step.positions, "pos"),
        n_seq_id=point_to(counts, "n_seq_id"),
        seq_id=point_to(pointers, "seq_id"),
        logits=point_to(step.wants_logits, "logits"),
    )
    return batch, (counts, pointers)
