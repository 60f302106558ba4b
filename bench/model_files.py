"""The synthetic models of the benchmarks, made once in bench/models/."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "models"


def ensure_synthetic_model(
    preset: str, quant: str, *, seed: int = 0, is_fast: bool = False
) -> Path:
    """Make a model with real dimensions and random weights, unless it exists. F16: no quantising.

    `is_fast` repeats the weights: for models so large that drawing them takes minutes.
    """
    from tests.models.synthetic import make

    path = FOLDER / f"{preset}-{quant}-{seed}.gguf"
    if not path.exists():
        print(f"making {path.name}", flush=True)
        quant_or_none = None if quant == "F16" else quant
        make(preset, path, quant=quant_or_none, seed=seed, is_fast=is_fast)
    return path
