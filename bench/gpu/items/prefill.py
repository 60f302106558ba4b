"""How fast prompts are computed, by the number of tokens that llama.cpp computes at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import msgspec

from bench.gpu.measuring import Case, Measuring
from bench.gpu.raw import build_config, compute_prompt, open_backend
from bench.gpu.scale import Scale

NAME = "prefill"
NEEDS_STACK = False
_PROMPTS = 8  # one after the other, of the same size together as the one long prompt
_REPETITIONS = 3


def list_cases(scale: Scale) -> list[Case]:
    return [
        {"model": model, "ubatch": ubatch, "flash_attention": flash}
        for model in scale.models
        for flash in (True, False)
        for ubatch in scale.ubatches
    ]


def run(case: Case, measuring: Measuring) -> None:
    tokens, ubatch = measuring.scale.prompt_tokens, int(case["ubatch"])
    config = build_config(
        measuring.make_model(str(case["model"])),
        measuring.scale,
        sequences=_PROMPTS,
        tokens=tokens // _PROMPTS,
        flash_attention=bool(case["flash_attention"]),
    )
    # Else the size of a step is the limit.
    config = msgspec.structs.replace(config, batch_tokens=max(ubatch, config.batch_tokens))
    with open_backend(config, ubatch=ubatch) as backend:

        def compute(prompts: int) -> None:
            for sequence in range(prompts):
                compute_prompt(backend, sequence, tokens // prompts)

        def forget() -> None:
            for sequence in range(_PROMPTS):
                backend.drop(sequence)

        for prompts in (1, _PROMPTS):
            seconds = _time(partial(compute, prompts), forget)
            measuring.results.add(
                f"{NAME} {case['model']}",
                f"{prompts} prompts of {tokens // prompts}",
                f"ubatch {ubatch}, flash {'on' if case['flash_attention'] else 'off'}",
                0,
                tokens_per_second=tokens / seconds,
                compute_buffer_mib=backend.info.compute_bytes / 2**20,
            )


def _time(run: Callable[[], None], forget: Callable[[], None]) -> float:
    """The median time of `run`, after one that is not counted."""
    times = []
    for _ in range(1 + _REPETITIONS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
        forget()
    return statistics.median(times[1:])
