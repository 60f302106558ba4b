"""The sizes of everything that is measured: for a GPU, or for a dry run on a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Models are named PRESET:QUANT; see tests/models/shapes.py."""

    models: tuple[str, ...]
    gpu_layers: int  # -1: all
    threads: int  # 0: one per core
    sequences: tuple[int, ...]  # of a step, ascending
    tokens: tuple[int, ...]  # of each sequence
    steps: int  # timed, for each number of sequences
    contexts: tuple[int, ...]  # cells of `offload`
    prompt_tokens: int  # of one prompt in `prefill`
    ubatches: tuple[int, ...]
    clients: tuple[int, ...]
    prompt_words: tuple[int, ...]  # of the requests of `servers`
    answer_tokens: int
    rounds: int
    target_steps: tuple[int, ...]  # ms, beside the default
    is_dry: bool


GPU = Scale(
    models=("qwen2.5-0.5b:Q8_0", "llama3.1-8b:Q4_K_M"),
    gpu_layers=-1,
    threads=0,
    sequences=(1, 8, 16, 64),
    tokens=(1024, 4096),
    steps=40,
    contexts=(8192, 65_536),
    prompt_tokens=4096,
    ubatches=(512, 1024, 2048),
    clients=(1, 8, 16, 64),
    prompt_words=(24, 700),
    answer_tokens=128,
    rounds=3,
    target_steps=(16, 24, 50),
    is_dry=False,
)
DRY = Scale(
    models=("tiny-dense:F16",),
    gpu_layers=0,
    threads=1,
    sequences=(1, 2),
    tokens=(16,),
    steps=4,
    contexts=(256,),
    prompt_tokens=64,
    ubatches=(32,),
    clients=(1, 2),
    prompt_words=(8,),
    answer_tokens=4,
    rounds=1,
    target_steps=(16,),
    is_dry=True,
)
