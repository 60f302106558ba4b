"""Loads with all layers on the GPU: the memory that the dry run promised, and what was measured.

Each load has a process of its own, like a runner, so that everything it took comes back.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from bench.gpu.devices import open_probe, run_alone
from bench.gpu.measuring import Case, Measuring
from bench.gpu.raw import build_config, compute_prompt
from bench.gpu.scale import Scale
from services.engine.backends import open_backend
from services.engine.backends.llamacpp.backend import LlamaBackend
from services.engine.backends.llamacpp.dry_run import dry_run
from services.engine.core import HOST, LoadConfig
from services.engine.memory.probe import measure_free_bytes

NAME = "offload"
NEEDS_STACK = False
_SEQUENCES = 16
_MIB = 2**20
_SECONDS = "seconds"  # beside the names of pools


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model, "cells": cells} for model in scale.models for cells in scale.contexts]


def run(case: Case, measuring: Measuring) -> None:
    config = _build_config(measuring.make_model(str(case["model"])), int(case["cells"]), measuring)
    promised = run_alone(_promise, config)
    before = measure_free_bytes(open_probe())
    loaded = run_alone(_load, config)
    seconds = loaded.pop(_SECONDS)
    after = measure_free_bytes(open_probe())
    for pool, free in before.items():
        if pool == HOST and len(before) > 1:
            continue  # the rest of the machine moves it more than this load does
        expected, measured = promised.get(pool, 0) / _MIB, (free - loaded[pool]) / _MIB
        measuring.results.add(
            NAME,
            f"{case['model']} {case['cells']} cells",
            pool,
            0,
            promised_mib=expected,
            measured_mib=measured,
            measured_over_promised=measured / expected if expected else None,
            left_after_exit_mib=(free - after[pool]) / _MIB,
            load_seconds=seconds,
        )


def _build_config(model: Path, cells: int, measuring: Measuring) -> LoadConfig:
    config = build_config(model, measuring.scale, sequences=_SEQUENCES, tokens=cells // _SEQUENCES)
    return msgspec.structs.replace(config, flash_attention=None)


def _promise(config: LoadConfig) -> dict[str, float]:
    return dict(dry_run(config).pool_bytes)


def _load(config: LoadConfig) -> dict[str, float]:
    """The free bytes of each pool after a load and its first steps, and the time of the load."""
    began = time.perf_counter()
    backend = open_backend(config, lambda _: None)
    assert isinstance(backend, LlamaBackend)
    seconds = time.perf_counter() - began
    compute_prompt(backend, 0, min(config.context_length // 2, len(backend.step.tokens)))
    free = measure_free_bytes(open_probe())
    backend.close()
    return {**free, _SECONDS: seconds}
