"""What choosing the tokens of a step costs on the processor: one thread, or a pool over the rows."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from bench.gpu.measuring import Case, Measuring
from bench.gpu.raw import FilledSequences, build_config, count_steps, decode, open_backend
from bench.gpu.scale import Scale
from services.engine.backends.base import Backend, Logits
from services.engine.core import Sampling
from services.engine.runner.sampling.logprobs import compute_logprob
from services.engine.runner.sampling.sampler import Sampler

NAME = "sampling"
NEEDS_STACK = False
_KINDS = {
    "greedy": Sampling(temperature=0),
    "default": Sampling(),
    "no top_k, top_p 0.95": Sampling(top_k=0, min_p=0.0),
}
_TOP_LOGPROBS = 5
_MAX_THREADS = 8


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model} for model in scale.models]


def run(case: Case, measuring: Measuring) -> None:
    scale, tokens = measuring.scale, measuring.scale.tokens[0]
    config = build_config(
        measuring.make_model(str(case["model"])),
        scale,
        sequences=max(scale.sequences),
        tokens=tokens + count_steps(scale.steps),
    )
    with open_backend(config) as backend:
        filled = FilledSequences(backend, tokens)
        for count in scale.sequences:
            ids = filled.grow(count)
            decode(backend, ids)
            rows = [backend.logits(row) for row in range(count)]
            for kind, params in _KINDS.items():
                _measure(case, measuring, kind, rows, _build_pick(params, rows))
            _measure(case, measuring, "top_logprobs 5", rows, _build_logprob(backend))


def _build_pick(params: Sampling, rows: list[Logits]) -> Callable[[int, Logits], object]:
    samplers = [
        Sampler(params, seed=row, vocab_size=len(rows[row]), prompt=()) for row in range(len(rows))
    ]
    return lambda row, logits: samplers[row].pick(logits)


def _build_logprob(backend: Backend) -> Callable[[int, Logits], object]:
    piece = backend.vocabulary.piece
    return lambda _, logits: compute_logprob(logits, 0, _TOP_LOGPROBS, piece)


def _measure(
    case: Case,
    measuring: Measuring,
    kind: str,
    rows: list[Logits],
    pick: Callable[[int, Logits], object],
) -> None:
    numbers, steps = range(len(rows)), measuring.scale.steps
    serial = _time(lambda: map(pick, numbers, rows), steps)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        pooled = _time(lambda: threads.map(pick, numbers, rows), steps)
    measuring.results.add(
        f"{NAME} {case['model']}",
        f"{len(rows)} rows",
        kind,
        0,
        one_thread_ms=serial,
        pool_ms=pooled,
    )


def _time(run: Callable[[], Iterable[object]], repetitions: int) -> float:
    """The median milliseconds of `run` and of reading its results."""
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        for _result in run():
            pass
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)
