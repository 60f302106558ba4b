"""A backend without a model, for tests: a tiny language, fast, and strict about the contract.

The next token is a pure function of the sequence's tokens, so a lost, doubled or misplaced token
changes the text. Where llama.cpp would abort, this backend raises. It counts its cells itself, one
per token with its number of owners, so that tests can compare them with the scheduler's count.

`model_path` may name a JSON file with the fields of `Behaviour`: it fails on purpose then.
"""

from __future__ import annotations

import os
import time
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from services.engine.backends.base import Logits, OnProgress, Outcome, Step, computed_row
from services.engine.backends.errors import BackendError
from services.engine.backends.fake_behaviour import Behaviour
from services.engine.backends.fake_vocabulary import END, VOCAB_SIZE, FakeVocabulary
from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo, RowCosts
from services.shared.errors import ModelLoadFailed

_LETTERS = b" etaoinshrdlucmfwypvbgkjqxz     "
_END_INTERVAL = 89  # about one token in so many ends the answer


class FakeBackend:
    """See Backend. Pure Python, about a microsecond per token."""

    def __init__(
        self,
        *,
        cells: int = 4096,
        max_step_tokens: int = 2048,
        max_sequences: int = 16,
        behaviour: Behaviour | None = None,
    ) -> None:
        self._behaviour = behaviour or Behaviour()
        policy = self._behaviour.memory_policy
        self._is_dense = policy is MemoryPolicy.DENSE
        self._is_recurrent = policy is MemoryPolicy.RECURRENT
        self._window = self._behaviour.window if policy is MemoryPolicy.WINDOW else 0
        self.vocabulary = FakeVocabulary()
        self.pooled = None
        self.step = Step.with_capacity(max_step_tokens)
        self.cells = cells
        self.shares_cells = True
        self.sequence_id_count = max_sequences + self._behaviour.cached_sequences
        self.max_outputs = self.sequence_id_count + 64
        self.row_costs = RowCosts(tile_rows=64, single_row_cost=8, prompt_seconds=0.05)
        self.takes_checkpoints = self._is_recurrent and self._behaviour.takes_checkpoints
        self.info = ModelInfo(
            architecture="fake",
            vocab_size=VOCAB_SIZE,
            context_length=cells,
            trained_context_length=cells,
            max_sequences=max_sequences,
            memory_policy=policy,
            window=self._window,
            gpu_layers=0,
            backend="fake",
            weights_bytes=1 << 20,
            kv_bytes=cells << 10,
            compute_bytes=1 << 16,
        )
        self._owners: dict[int, int] = {}  # cell -> number of sequences that hold it
        self._next_cell = 0
        self._cells: dict[int, list[int]] = {}  # sequence -> its cells, by position
        self._hashes: dict[int, list[int]] = {}  # sequence -> hash after each position
        self._first: dict[int, int] = {}  # sequence -> first position that its window still holds
        self._lengths: dict[int, int] = {}  # of each sequence, before the present step
        self._stale: set[int] = set()  # recurrent: sequences without the state of their length
        self._rows = np.zeros((self.max_outputs, VOCAB_SIZE), np.float32)
        self._touched: list[tuple[int, int]] = []
        self._outputs = 0
        self._steps = 0

    @classmethod
    def open(cls, config: LoadConfig, on_progress: OnProgress) -> FakeBackend:
        """Read the behaviour from a JSON file, if any. Raises ModelLoadFailed on request."""
        path = Path(config.model_path)
        raw = path.read_bytes() if path.suffix == ".json" else b"{}"
        behaviour = msgspec.json.decode(raw, type=Behaviour)
        on_progress(0.5)
        if behaviour.load_error:
            raise ModelLoadFailed(behaviour.load_error)
        on_progress(1.0)
        return cls(
            cells=config.context_length,
            max_step_tokens=max(config.batch_tokens, config.max_sequences),
            max_sequences=config.max_sequences,
            behaviour=behaviour,
        )

    @property
    def cells_used(self) -> int:
        """Number of cells with at least one owner."""
        return len(self._owners)

    def count_held(self, sequence: int) -> int:
        """Number of tokens that a sequence holds."""
        return len(self._cells.get(sequence, ()))

    def run(self) -> Outcome:
        """Hash every token into its sequence; see Backend.run."""
        self._apply_behaviour()
        step = self.step
        self._check(step)
        self._outputs = 0
        if step.size > self.cells - self._behaviour.hidden_cells - len(self._owners):
            return Outcome.KV_FULL
        self._lengths = {sequence: len(cells) for sequence, cells in self._cells.items()}
        wants = step.wants_logits[: step.size].tolist()
        tokens = step.tokens[: step.size].tolist()
        for row, column in self._touched:
            self._rows[row, column] = 0.0
        self._touched.clear()
        for index, sequence in enumerate(step.sequences[: step.size].tolist()):
            value = self._append(sequence, tokens[index])
            if wants[index]:
                self._predict(value)
        return Outcome.OK

    def logits(self, output: int) -> Logits:
        """See Backend.logits."""
        return computed_row(self._rows, self._outputs, output)

    def share(self, source: int, target: int, end: int) -> None:
        """See Backend.share."""
        self._check_ids(source, target)
        if self._behaviour.share_seconds:
            time.sleep(self._behaviour.share_seconds)
        if self._cells.get(target) or end > self.count_held(source) or end < 1:
            raise BackendError("share into a sequence in use, or of tokens that are missing")
        if self._is_recurrent and end != self.count_held(source):
            self._stale.add(target)  # until a state is loaded
        self._cells[target] = self._cells[source][:end]
        self._hashes[target] = self._hashes[source][:end]
        self._first[target] = self.first_position(source)
        for cell in self._cells[target]:
            self._owners[cell] += 1

    def first_position(self, sequence: int) -> int:
        """See Backend.first_position."""
        return self._first.get(sequence, 0)

    def cut(self, sequence: int, start: int) -> None:
        """See Backend.cut."""
        self._check_ids(sequence)
        if not 0 < start <= self.count_held(sequence):
            raise BackendError("cut outside of the sequence")
        if self._is_recurrent and start != self.count_held(sequence):
            raise BackendError("this memory cannot forget part of a sequence")
        for cell in self._cells[sequence][start:]:
            self._release_cell(cell)
        del self._cells[sequence][start:]
        del self._hashes[sequence][start:]

    def drop(self, sequence: int) -> None:
        """See Backend.drop."""
        self._check_ids(sequence)
        for cell in self._cells.pop(sequence, ()):
            self._release_cell(cell)
        self._hashes.pop(sequence, None)
        self._first.pop(sequence, None)
        self._stale.discard(sequence)

    def save(self, sequence: int, start: int, end: int) -> bytes:
        """See Backend.save. A state is the hashes of its part, or all of them for an empty part."""
        self._check_ids(sequence)
        length = self.count_held(sequence)
        is_part = start > 0 or end < length
        is_state = self._is_recurrent and start == end == length
        if not 0 <= start <= end <= length or (is_part and not is_state and not self._is_dense):
            raise BackendError("this part of the sequence cannot be saved")
        hashes = self._hashes.get(sequence, [])
        return msgspec.msgpack.encode((start, hashes if is_state else hashes[start:end]))

    def load(self, sequence: int, start: int, state: bytes | memoryview) -> bool:
        """See Backend.load."""
        self._check_ids(sequence)
        if start != self.count_held(sequence) or (start and self._window):
            raise BackendError("a state for another length")
        begin, hashes = _decode_state(state)
        is_state = self._is_recurrent and start > 0
        room = self.cells - self._behaviour.hidden_cells - len(self._owners)
        if self._behaviour.refuses_load or begin != start or (len(hashes) > room and not is_state):
            self.drop(sequence)
            return False
        if is_state:
            self._hashes[sequence] = hashes
            self._stale.discard(sequence)
            return True
        if self._window:
            self._lengths = {other: len(cells) for other, cells in self._cells.items()}
            for _ in hashes:
                self._take_cell_before_a_window(sequence)
            self._first[sequence] = max(len(hashes) - self._window, 0)
        self._hashes.setdefault(sequence, []).extend(hashes)
        self._cells.setdefault(sequence, []).extend(self._new_cell() for _ in hashes)
        return True

    def close(self) -> None:
        """Forget everything."""
        self._cells.clear()
        self._hashes.clear()
        self._first.clear()
        self._owners.clear()

    def _apply_behaviour(self) -> None:
        self._steps += 1
        behaviour = self._behaviour
        if self._steps == behaviour.fail_at_step or 0 < behaviour.fail_from_step <= self._steps:
            raise BackendError("this failure was requested")
        if self._steps == behaviour.abort_at_step:
            os.abort()
        if self._steps == behaviour.hang_at_step:
            time.sleep(1e9)
        if behaviour.step_seconds:
            time.sleep(behaviour.step_seconds)

    def _check(self, step: Step) -> None:
        """Raise an error where llama.cpp aborts, or returns -1."""
        used = slice(0, step.size)
        if not 0 < step.size <= len(step.tokens):
            raise BackendError("the step has no tokens, or too many")
        if int(np.count_nonzero(step.wants_logits[used])) > self.max_outputs:
            raise BackendError("more outputs than were reserved")
        tokens, sequences = step.tokens[used], step.sequences[used]
        if not 0 <= tokens.min() <= tokens.max() < VOCAB_SIZE:
            raise BackendError("token outside of the vocabulary")
        if not 0 <= sequences.min() <= sequences.max() < self.sequence_id_count:
            raise BackendError("sequence id out of range")
        owners = [sequence for sequence, _ in groupby(sequences.tolist())]
        if len(owners) > len(set(owners)):
            raise BackendError("the tokens of a sequence must stand together")
        if not self._stale.isdisjoint(owners):
            raise BackendError("the sequence lacks the state of its length")

    def _append(self, sequence: int, token: int) -> int:
        hashes = self._hashes.setdefault(sequence, [])
        if self._window:
            self._take_cell_before_a_window(sequence)
            if self._first.get(sequence, 0) > max(len(hashes) - self._window, 0):
                hashes[-1] ^= 1  # part of its window is lost, so all that follows is wrong
        value = ((hashes[-1] if hashes else 1) * 1_000_003 + token + 11) & 0xFFFF_FFFF
        hashes.append(value)
        self._cells.setdefault(sequence, []).append(self._new_cell())
        return value

    def _take_cell_before_a_window(self, sequence: int) -> None:
        """Take the cell of another sequence that lies before its window, as llama.cpp may do."""
        for other, length in self._lengths.items():
            first = self._first.get(other, 0)
            is_outside = first < length - self._window
            if other != sequence and is_outside and self._owners[self._cells[other][first]] == 1:
                self._first[other] = first + 1
                return

    def _predict(self, value: int) -> None:
        """Set two high logits: of two letters, or sometimes of the end token and a letter."""
        row, self._outputs = self._outputs, self._outputs + 1
        mixed = value ^ (value >> 13)
        best = END if mixed % _END_INTERVAL == 0 else _LETTERS[mixed % 32]
        second = _LETTERS[(mixed >> 5) % 32]
        if self._steps == self._behaviour.nan_at_step:
            self._set(row, best, float("nan"))
            return
        self._set(row, second, 2.0)
        self._set(row, best, 4.0)

    def _set(self, row: int, column: int, value: float) -> None:
        self._rows[row, column] = value
        self._touched.append((row, column))

    def _new_cell(self) -> int:
        self._next_cell += 1
        self._owners[self._next_cell] = 1
        return self._next_cell

    def _release_cell(self, cell: int) -> None:
        self._owners[cell] -= 1
        if self._owners[cell] == 0:
            del self._owners[cell]

    def _check_ids(self, *sequences: int) -> None:
        if not all(0 <= sequence < self.sequence_id_count for sequence in sequences):
            raise BackendError("sequence id out of range")


def _decode_state(state: bytes | memoryview) -> tuple[int, list[int]]:
    """Where the state begins, and its hashes; -1 for a damaged one."""
    try:
        return msgspec.msgpack.decode(state, type=tuple[int, list[int]])
    except msgspec.DecodeError:
        return -1, []
