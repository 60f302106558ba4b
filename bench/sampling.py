"""Measure what it costs to sample one step: microseconds per row, by sampling parameters.

    python -m bench.sampling [--vocab 151936] [--rows 64] [--rounds 5]
    python -m bench.sampling --threads 2    milliseconds of wall time of a step, rows dealt to threads

Rows are independent float32 logits in one array, as after a copy from a device: no cache holds all
of them. "peaked" rows have a few clear favourites, "broad" ones are normal with deviation 2.5, and
"flat" ones with 0.05. The best of the rounds is shown, in CPU time, so that a shared machine
disturbs it little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from services.engine.core import Sampling
from services.engine.runner.sampling.logprobs import compute_logprob
from services.engine.runner.sampling.sampler import Sampler

Rows = NDArray[np.float32]

CASES = {
    "greedy": Sampling(temperature=0.0),
    "default": Sampling(),
    "default, repeat_penalty 1.1": Sampling(repeat_penalty=1.1),
    "default, top_k 0": Sampling(top_k=0),
    "top_k 0, top_p .95": Sampling(top_k=0, min_p=0.0),
    "top_k 0, top_p .95, min_p .05": Sampling(top_k=0),
    "top_k 0, typical_p .9": Sampling(top_k=0, top_p=1.0, min_p=0.0, typical_p=0.9),
    "pure: top_k 0, top_p 1": Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0),
}


def build_rows(kind: str, count: int, vocab_size: int) -> Rows:
    """Build `count` rows of one kind; equal kinds give equal rows."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, vocab_size), dtype=np.float32)
    rows *= {"peaked": 1.5, "broad": 2.5, "flat": 0.05}[kind]
    if kind == "peaked":
        for row in rows:
            row[rng.integers(0, vocab_size, 8)] += 18
    return rows


def measure(work: Callable[[], object], rows: int, rounds: int) -> float:
    """Microseconds of CPU time per row, in the best round."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / rows * 1e6


def build_samplers(params: Sampling, rows: Rows) -> list[Sampler]:
    """Build one sampler per row."""
    count, vocab_size = rows.shape
    return [
        Sampler(params, seed=seed, vocab_size=vocab_size, prompt=range(1000))
        for seed in range(count)
    ]


def pick(samplers: Sequence[Sampler], rows: Rows) -> list[int]:
    """Pick one token per row."""
    return [sampler.pick(row) for sampler, row in zip(samplers, rows, strict=True)]


def pick_in_threads(
    executor: ThreadPoolExecutor, threads: int, samplers: Sequence[Sampler], rows: Rows
) -> list[int]:
    """Pick one token per row, the first part on this thread, the others on the executor's."""
    size = -(-len(samplers) // threads)
    others = [
        executor.submit(pick, samplers[start : start + size], rows[start : start + size])
        for start in range(size, len(samplers), size)
    ]
    tokens = pick(samplers[:size], rows[:size])
    return tokens + [token for other in others for token in other.result()]


def compare_threads(threads: int, vocab_size: int, rounds: int) -> None:
    """Print the wall time of a step in one thread and in several, in turn, best of the rounds."""
    print(f"| ms per step, {vocab_size} tokens, broad | rows | 1 thread | {threads} threads |")
    print("|-|-|-|-|")
    with ThreadPoolExecutor(threads - 1) as executor:
        for (name, params), count in product(CASES.items(), (1, 8, 64)):
            rows = build_rows("broad", count, vocab_size)
            samplers = build_samplers(params, rows)
            ways: list[Callable[[Sequence[Sampler], Rows], object]] = [
                pick,
                partial(pick_in_threads, executor, threads),
            ]
            best = [float("inf")] * len(ways)
            for _ in range(rounds):
                for place, way in enumerate(ways):
                    began = time.perf_counter()
                    way(samplers, rows)
                    best[place] = min(best[place], time.perf_counter() - began)
            print(f"| {name} | {count} | {best[0] * 1e3:.2f} | {best[1] * 1e3:.2f} |")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    # As after the load of a model: glibc keeps freed memory as large as the largest block that was
    # ever freed. Before, each temporary array is returned to the system and costs page faults.
    np.ones(4 << 20, np.float32)
    if options.threads > 1:
        compare_threads(options.threads, options.vocab, options.rounds)
        return
    kinds = ("peaked", "broad", "flat")
    print(f"| µs per row, {options.rows} rows of {options.vocab} | " + " | ".join(kinds) + " |")
    print("|-|" + "-|" * len(kinds))
    table: dict[str, list[float]] = {}
    for kind in kinds:
        rows = build_rows(kind, options.rows, options.vocab)
        for name, params in CASES.items():
            work = partial(pick, build_samplers(params, rows), rows)
            table.setdefault(name, []).append(measure(work, options.rows, options.rounds))

        def logprobs(rows: Rows = rows) -> None:
            for row in rows:
                compute_logprob(row, 5, 5, lambda _: b"")

        table.setdefault("log-probabilities, top 5", []).append(
            measure(logprobs, options.rows, options.rounds)
        )
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
