"""A decode step with many sequences: unified or split memory, with flash attention and without.

In a unified memory each row looks at the cells of all sequences. So the sequences are filled one
group after the other, and none but those of the step exist.
"""

from __future__ import annotations

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

NAME = "steps"
NEEDS_STACK = False


def list_cases(scale: Scale) -> list[Case]:
    """Flash attention off for the shortest sequences only: without it buffers are much larger."""
    return [
        {"model": model, "kv_mode": kv_mode, "tokens": tokens, "flash_attention": flash}
        for model in scale.models
        for flash in (True, False)
        for tokens in (scale.tokens if flash else scale.tokens[:1])
        for kv_mode in ("unified", "split")
    ]


def run(case: Case, measuring: Measuring) -> None:
    scale, tokens = measuring.scale, int(case["tokens"])
    config = build_config(
        measuring.make_model(str(case["model"])),
        scale,
        sequences=max(scale.sequences),
        tokens=tokens + count_steps(scale.steps),
        kv_mode="split" if case["kv_mode"] == "split" else "unified",
        flash_attention=bool(case["flash_attention"]),
    )
    variant = f"{case['kv_mode']}, flash {'on' if case['flash_attention'] else 'off'}"
    with open_backend(config) as backend:
        filled = FilledSequences(backend, tokens)
        for count in scale.sequences:
            ids = filled.grow(count)
            times = time_decodes(backend, [ids] * count_steps(scale.steps))
            filled.cut()
            # The same work but for the logits of the other rows, which are neither computed nor
            # copied to main memory.
            one = time_decodes(backend, [ids] * count_steps(scale.steps), outputs=1)
            filled.cut()
            measuring.results.add(
                f"{NAME} {case['model']}",
                f"{count} sequences of {tokens}",
                variant,
                0,
                **asdict(times),
                one_output_step_ms=one.step_ms,
                tokens_per_second=1000 * count / times.step_ms,
            )
