"""Steps of a backend without the stack around it: open a model, fill sequences, time steps."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np

from bench.gpu.devices import find_devices
from bench.gpu.scale import Scale
from bench.load import percentile
from services.engine import backends
from services.engine.backends.base import Outcome
from services.engine.backends.llamacpp.backend import LlamaBackend
from services.engine.backends.llamacpp.library import load_library
from services.engine.core import LoadConfig
from services.shared.limits import KvMode

_SETTINGS = "services.engine.backends.llamacpp.settings"
_TIMED = ("llama_decode", "llama_synchronize")
_WARM_UP_STEPS = 3
_FIRST_TOKEN, _LAST_TOKEN = 300, 1000  # ordinary tokens of every vocabulary that is made here


def build_config(
    model: Path,
    scale: Scale,
    *,
    sequences: int,
    tokens: int,
    kv_mode: KvMode = "unified",
    flash_attention: bool = True,
) -> LoadConfig:
    """The load of a model for so many sequences of so many tokens each."""
    # With a split memory the context is that of one sequence, otherwise that of all together.
    return LoadConfig(
        model_path=str(model),
        backend="llamacpp",
        context_length=tokens if kv_mode == "split" else tokens * sequences,
        kv_mode=kv_mode,
        max_sequences=sequences,
        gpu_layers=scale.gpu_layers,
        devices=tuple(d.name for d in find_devices()[:1]) if scale.gpu_layers else (),
        threads=scale.threads,
        flash_attention=flash_attention,
    )


@contextmanager
def open_backend(config: LoadConfig, *, ubatch: int | None = None) -> Iterator[LlamaBackend]:
    """Load a model; `ubatch` replaces the number of tokens that are computed at once."""
    if ubatch is None:
        backend = backends.open_backend(config, lambda _: None)
    else:
        with mock.patch(f"{_SETTINGS}._UBATCH", ubatch):
            backend = backends.open_backend(config, lambda _: None)
    assert isinstance(backend, LlamaBackend)
    try:
        if config.gpu_layers and not backend.info.gpu_layers:
            raise RuntimeError("no layer is on a GPU")
        yield backend
    finally:
        backend.close()


def compute_prompt(backend: LlamaBackend, sequence: int, tokens: int) -> None:
    """Append so many tokens to a sequence, in steps as large as possible."""
    random = np.random.default_rng(sequence)
    step = backend.step
    left = tokens
    while left:
        size = min(left, len(step.tokens))
        left -= size
        step.tokens[:size] = random.integers(_FIRST_TOKEN, _LAST_TOKEN, size)
        step.sequences[:size] = sequence
        step.wants_logits[:size] = 0
        step.wants_logits[size - 1] = left == 0
        step.size = size
        _run(backend)


def decode(backend: LlamaBackend, sequences: Sequence[int], *, outputs: int | None = None) -> None:
    """One token of each sequence. The last `outputs` of them want logits; None: all of them."""
    step, size = backend.step, len(sequences)
    step.tokens[:size] = _FIRST_TOKEN + step.tokens[:size] % (_LAST_TOKEN - _FIRST_TOKEN)
    step.sequences[:size] = sequences
    step.wants_logits[:size] = 0
    step.wants_logits[size - (size if outputs is None else outputs) : size] = 1
    step.size = size
    _run(backend)


def _run(backend: LlamaBackend) -> None:
    if backend.run() is not Outcome.OK:
        raise RuntimeError(f"no room for {backend.step.size} tokens")


class FilledSequences:
    """Sequences of equal length. One is computed, the others are copies of its state."""

    def __init__(self, backend: LlamaBackend, tokens: int) -> None:
        self._backend = backend
        self._tokens = tokens
        self._count = 1
        compute_prompt(backend, 0, tokens)
        self._state = backend.save(0, 0, tokens)

    def grow(self, count: int) -> list[int]:
        """Fill sequences until there are `count`; returns their ids."""
        for sequence in range(self._count, count):
            if not self._backend.load(sequence, 0, self._state):
                raise RuntimeError(f"no room for sequence {sequence}")
        self._count = max(self._count, count)
        return list(range(count))

    def cut(self) -> None:
        """Give all sequences their first length back."""
        for sequence in range(self._count):
            self._backend.cut(sequence, self._tokens)


class LibraryClock:
    """Adds up the wall time inside llama.cpp's functions, and sees the context they are called for.

    `with LibraryClock() as clock: ...`; read it inside or after the block.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lib = load_library()
        self.context: Any = None

    def __enter__(self) -> Self:
        self._patches = [
            mock.patch.object(self._lib, name, self._time(name, getattr(self._lib, name)))
            for name in _TIMED
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

    @property
    def reused_graphs(self) -> int:
        """How many computations have reused the graph of the one before, since the load."""
        return int(self._lib.llama_perf_context(self.context).n_reused)

    def _time(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(context: Any, *arguments: Any) -> Any:
            self.context = context
            began = time.perf_counter()
            try:
                return function(context, *arguments)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return call


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What steps took. All times are milliseconds."""

    step_ms: float  # the median
    step_mean_ms: float
    step_p95_ms: float
    decode_call_ms: float  # the mean; llama_decode does not wait for a GPU
    synchronize_ms: float
    reused_graphs_percent: float


def time_decodes(
    backend: LlamaBackend, batches: Sequence[Sequence[int]], *, outputs: int | None = None
) -> StepTimes:
    """Decode each of the batches of sequences, see `decode`; the first ones are not counted."""
    with LibraryClock() as clock:
        for sequences in batches[:_WARM_UP_STEPS]:
            decode(backend, sequences, outputs=outputs)
        clock.seconds.clear()
        reused = clock.reused_graphs
        times = []
        for sequences in batches[_WARM_UP_STEPS:]:
            began = time.perf_counter()
            decode(backend, sequences, outputs=outputs)
            times.append(1000 * (time.perf_counter() - began))
        reused = clock.reused_graphs - reused
    return StepTimes(
        step_ms=statistics.median(times),
        step_mean_ms=statistics.fmean(times),
        step_p95_ms=percentile(times, 95) or 0.0,
        decode_call_ms=1000 * clock.seconds["llama_decode"] / len(times),
        synchronize_ms=1000 * clock.seconds["llama_synchronize"] / len(times),
        reused_graphs_percent=100 * reused / len(times),
    )


def count_steps(steps: int) -> int:
    """The batches that `time_decodes` needs in order to time `steps`."""
    return steps + _WARM_UP_STEPS
