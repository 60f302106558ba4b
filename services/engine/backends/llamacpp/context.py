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
from services.engine.backends.llamacpp.batch import build_batch
from services.engine.backends.llamacpp.failures import build_load_error
from services.engine.backends.llamacpp.library import capture_log
from services.engine.backends.llamacpp.model import LlamaModel
from services.engine.backends.llamacpp.settings import build_context_parameters
from services.engine.core import LoadConfig

logger = logging.getLogger(__name__)

_KV_FULL = 1  # llama_decode: no room, and nothing has changed
_ABORTED = 2
_WHOLE = 0  # flags of llama_state_seq_*
_NOT_IN_CELLS = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_BYTES = ctypes.POINTER(ctypes.c_uint8)


class NoMemoryError(Exception):
    """The model is an encoder: it has no memory to generate with.

    llama.cpp counts BERT and its relatives as decoders; only their contexts tell.
    """


class LlamaContext:
    """The memory of one model, and computation in it. One thread only."""

    def __init__(self, lib: ModuleType, model: LlamaModel, config: LoadConfig) -> None:
        """Create the context. Raises ModelLoadFailed where that is not possible."""
        self._lib = lib
        self.handle = _create(lib, model, config)
        self._memory = lib.llama_get_memory(self.handle)
        if not self._memory:
            lib.llama_free(self.handle)
            raise NoMemoryError
        self._vocab_size = model.vocabulary.size
        params = build_context_parameters(lib, config, is_recurrent=model.is_recurrent)
        self.max_outputs = int(params.n_outputs_max)
        self._is_recurrent = model.is_recurrent
        ids = int(params.n_seq_max)
        self.shares_cells = bool(params.kv_unified)
        has_scratch = self.shares_cells and not model.is_recurrent and ids > config.max_sequences
        self.sequence_id_count = ids - 1 if has_scratch else ids
        # Parts of sequences are saved and loaded through the last one, in a dense memory.
        self._scratch = ids - 1 if has_scratch and not model.window else None
        self._lengths = np.zeros(ids, np.int32)
        # llama.cpp copies a sequence into another part of memory at the beginning of the next step.
        self._has_pending_copies = False
        self.threads = int(params.n_threads)
        self.cells = int(lib.llama_n_ctx(self.handle))
        self.context_length = int(lib.llama_n_ctx_seq(self.handle))
        self.step = Step.with_capacity(int(params.n_batch))
        self._positions: Ints = np.zeros(len(self.step.tokens), np.int32)
        self._batch, self._sequence_ids = build_batch(lib, self.step, self._positions)
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
        lengths = self._place_tokens()
        status = self._lib.llama_decode(self.handle, self._batch)
        self._has_pending_copies = False
        if status == _KV_FULL:
            return Outcome.KV_FULL
        if status != 0:
            reason = "aborted" if status == _ABORTED else f"llama_decode returned {status}"
            raise BackendError(reason)
        self._lengths = lengths
        self._lib.llama_synchronize(self.handle)
        self._outputs = wanted
        if wanted:
            self._view_logits(wanted)
        return Outcome.OK

    def logits(self, output: int) -> Logits:
        """See Backend.logits. The row is a view of llama.cpp's own buffer."""
        return computed_row(self._rows, self._outputs, output)

    def share(self, source: int, target: int, end: int) -> None:
        """See Backend.share. The cells get a further owner, unless each sequence has its own."""
        # All of a sequence is asked for as such: some memories abort on an explicit end, as all do
        # where the cells are copied.
        is_whole = end == self._lengths[source]
        last = end if self.shares_cells and not is_whole else -1
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, last)
        if last == -1 and not is_whole:
            self.cut(target, end)
        self._lengths[target] = end
        self._has_pending_copies |= not self.shares_cells

    def first_position(self, sequence: int) -> int:
        """See Backend.first_position. llama.cpp reports the layers that have lost most."""
        return max(int(self._lib.llama_memory_seq_pos_min(self._memory, sequence)), 0)

    def cut(self, sequence: int, start: int) -> None:
        """See Backend.cut."""
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise BackendError("this memory cannot forget part of a sequence")
        self._lengths[sequence] = start

    def drop(self, sequence: int) -> None:
        """See Backend.drop. Every memory can forget a whole sequence."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._lengths[sequence] = 0

    def save(self, sequence: int, start: int, end: int) -> bytes:
        """See Backend.save."""
        self._check_copies()
        length = int(self._lengths[sequence])
        if not 0 <= start <= end <= length:
            raise BackendError(f"tokens {start} to {end} of a sequence of {length}")
        if end == length and start == 0:
            return self._read_state(sequence, _WHOLE)
        if self._is_recurrent and start == end == length:
            return self._read_state(sequence, _NOT_IN_CELLS)
        if self._scratch is None or start == end:
            raise BackendError("this memory saves whole sequences only")
        self._lib.llama_memory_seq_cp(self._memory, sequence, self._scratch, start, end)
        try:
            return self._read_state(self._scratch, _WHOLE)
        finally:
            self._lib.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)

    def load(self, sequence: int, start: int, state: bytes | memoryview) -> bool:
        """See Backend.load."""
        self._check_copies()
        if start != self._lengths[sequence]:
            raise BackendError(f"a state of token {start} on, for another length")
        if start == 0:
            end = self._load_cells(sequence, start, state)
        elif self._is_recurrent:
            end = start if self._write_state(sequence, _NOT_IN_CELLS, state) else 0
        elif self._scratch is None:
            raise BackendError("this memory loads whole sequences only")
        else:
            end = self._load_cells(self._scratch, start, state)
            if end:
                self._lib.llama_memory_seq_cp(self._memory, self._scratch, sequence, start, end)
            self._lib.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)
        if not end:
            self.drop(sequence)
        self._lengths[sequence] = end
        return end > 0

    def can_cut(self) -> bool:
        """Test with two tokens whether memory can forget part of a sequence; clears the memory.

        Where it cannot, parts of sequences are not touched any more: some memories abort on that.
        """
        step = self.step
        step.tokens[:2], step.sequences[:2] = 0, 0
        step.wants_logits[:2], step.size = (0, 1), 2
        outcome = self.run()
        can = outcome is Outcome.OK and bool(self._lib.llama_memory_seq_rm(self._memory, 0, 1, -1))
        self._lib.llama_memory_clear(self._memory, True)
        self._lengths[:] = 0
        if not can:
            self._scratch = None
        return can

    def close(self) -> None:
        """Free memory and buffers. Safe to call twice."""
        if self.handle is not None:
            self._rows = np.zeros((0, self._vocab_size), np.float32)
            self._lib.llama_free(self.handle)
            self.handle = None

    def _check_copies(self) -> None:
        if self._has_pending_copies:
            raise BackendError("what was shared is copied by the next step")

    def _place_tokens(self) -> Ints:
        """Write the positions of the step's tokens; returns the lengths of all sequences after it."""
        sequences = self.step.sequences[: self.step.size]
        if sequences.min() < 0 or sequences.max() >= self.sequence_id_count:
            raise BackendError("sequence id out of range")
        lengths = self._lengths.copy()
        begins = np.flatnonzero(np.diff(sequences, prepend=-1))  # of each sequence's tokens
        owners = sequences[begins]
        counts = np.diff(begins, append=len(sequences))
        positions = self._positions[: len(sequences)]
        positions[:] = np.arange(len(sequences)) + np.repeat(lengths[owners] - begins, counts)
        lengths[owners] += counts
        return lengths

    def _read_state(self, sequence: int, flags: int) -> bytes:
        size = int(self._lib.llama_state_seq_get_size_ext(self.handle, sequence, flags))
        buffer = np.empty(size, np.uint8)
        got = self._lib.llama_state_seq_get_data_ext(
            self.handle, buffer.ctypes.data_as(_BYTES), size, sequence, flags
        )
        if got == 0 or got != size:
            raise BackendError("the sequence's state could not be read")
        return buffer.tobytes()

    def _write_state(self, sequence: int, flags: int, state: bytes | memoryview) -> bool:
        source = np.frombuffer(state, np.uint8).ctypes.data_as(_BYTES)  # llama.cpp only reads it
        read = self._lib.llama_state_seq_set_data_ext(
            self.handle, source, len(state), sequence, flags
        )
        return int(read) == len(state)

    def _load_cells(self, sequence: int, start: int, state: bytes | memoryview) -> int:
        """Write a state into an empty sequence; returns its end, 0 where it does not begin there."""
        if not self._write_state(sequence, _WHOLE, state):
            return 0
        first = int(self._lib.llama_memory_seq_pos_min(self._memory, sequence))
        if start and first != start:
            return 0
        return int(self._lib.llama_memory_seq_pos_max(self._memory, sequence)) + 1

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
