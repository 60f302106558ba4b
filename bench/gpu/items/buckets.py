"""Steps whose number of sequences changes: as they come, or padded to a few sizes.

llama.cpp reuses a graph only for equal steps. Padded steps carry throw-away sequences.
"""

from __future__ import annotations

import random
from dataclasses import asdict

from bench.gpu.measuring import Case, Measuring
from bench.gpu.raw import (
    FilledSequences,
    build_config,
    count_steps,
    open_backend,
    time_decodes,
)
from bench.gpu.scale import Scale

NAME = "buckets"
NEEDS_STACK = False
_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
_STEPS_PER_CHANGE = (5, 3, 1)


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model} for model in scale.models]


def run(case: Case, measuring: Measuring) -> None:
    scale, tokens = measuring.scale, measuring.scale.tokens[0]
    most = max(scale.sequences)
    steps = 2 * scale.steps
    config = build_config(
        measuring.make_model(str(case["model"])),
        scale,
        sequences=most,
        tokens=tokens + count_steps(steps),
    )
    with open_backend(config) as backend:
        filled = FilledSequences(backend, tokens)
        ids = filled.grow(most)
        for every in _STEPS_PER_CHANGE:
            counts = walk(most, count_steps(steps), every)
            for variant, sizes in (("as they come", counts), ("padded", pad(counts, most))):
                times = time_decodes(backend, [ids[:size] for size in sizes])
                filled.cut()
                measuring.results.add(
                    f"{NAME} {case['model']}",
                    f"a change every {every} steps",
                    variant,
                    0,
                    **asdict(times),
                )


def walk(most: int, steps: int, every: int, *, seed: int = 0) -> list[int]:
    """The number of sequences of each step: one more or one fewer every few steps."""
    draw = random.Random(seed)
    count, counts = max(1, 3 * most // 4), []
    for number in range(steps):
        if number and number % every == 0:
            count = min(max(count + draw.choice((-1, 1)), 1), most)
        counts.append(count)
    return counts


def pad(counts: list[int], most: int) -> list[int]:
    """Each number raised to the next bucket, at most to `most`."""
    return [min(next((b for b in _BUCKETS if b >= count), most), most) for count in counts]
