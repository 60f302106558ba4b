"""Makes the synthetic models, so that no other unit spends its time on that."""

from __future__ import annotations

import shutil
import time

from bench.gpu.measuring import Case, Measuring
from bench.gpu.scale import Scale
from bench.model_files import FOLDER

NAME = "models"
NEEDS_STACK = False


def list_cases(scale: Scale) -> list[Case]:
    """The first model twice: `eviction` takes turns with two."""
    return [
        {"model": model, "seed": seed}
        for model in scale.models
        for seed in ((0, 1) if model == scale.models[0] else (0,))
    ]


def run(case: Case, measuring: Measuring) -> None:
    for interrupted in FOLDER.glob(".making-*"):
        shutil.rmtree(interrupted, ignore_errors=True)
    began = time.perf_counter()
    path = measuring.make_model(str(case["model"]), seed=int(case["seed"]))
    measuring.results.add(
        NAME,
        str(case["model"]),
        f"seed {case['seed']}",
        0,
        file_mib=path.stat().st_size / 2**20,
        make_seconds=time.perf_counter() - began,
    )
