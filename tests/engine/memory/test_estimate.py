from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo
from services.engine.memory.estimate import (
    EstimateCache,
    Footprint,
    build_footprint,
    compute_estimate_key,
    correct_footprint,
    find_fitting_context,
    guess_footprint,
)
from services.shared.memory_assumptions import DEVICE_CONTEXT_BYTES, PROCESS_BYTES


def info(**changes: object) -> ModelInfo:
    base = ModelInfo(
        architecture="llama",
        vocab_size=1,
        context_length=1024,
        trained_context_length=8192,
        max_sequences=1,
        memory_policy=MemoryPolicy.DENSE,
        gpu_layers=0,
        backend="x",
        weights_bytes=1000,
        kv_bytes=1024,
        compute_bytes=100,
    )
    return msgspec.structs.replace(base, **changes)


def config(**changes: object) -> LoadConfig:
    base = LoadConfig(model_path="m", backend="llamacpp", context_length=1024)
    return msgspec.structs.replace(base, **changes)


def test_a_footprint_includes_what_the_process_takes() -> None:
    assert build_footprint(info()).need == {"host": 2124 + PROCESS_BYTES}


def test_a_footprint_on_a_device_includes_the_drivers_context() -> None:
    footprint = build_footprint(info(pool_bytes={"host": 124, "cuda0": 2000}, gpu_layers=9))

    assert footprint.need == {"host": 124 + PROCESS_BYTES, "cuda0": 2000 + DEVICE_CONTEXT_BYTES}


def test_a_measured_load_replaces_the_reserve_and_not_the_models_sizes() -> None:
    footprint = build_footprint(info())

    assert correct_footprint(footprint, {"host": 5000}).need == {"host": 5000}
    assert correct_footprint(footprint, {"host": 10}).need == {"host": 2124}
    assert correct_footprint(footprint, {}).need == footprint.need
    assert correct_footprint(footprint, {"host": 5000}).source == "earlier load"


@pytest.mark.parametrize(
    ("available", "cells"),
    [(2124 + 1024, 2048), (2124, 1024), (2123, 768), (1099, 0), (1 << 40, 8192)],
)
def test_the_fitting_context_is_the_largest_multiple_of_the_step(
    available: int, cells: int
) -> None:
    footprint = build_footprint(info())

    assert find_fitting_context(footprint, {"host": PROCESS_BYTES + available}) == cells


def test_a_guessed_footprint_is_larger_than_the_file() -> None:
    guessed = guess_footprint(config(), weights_bytes=1 << 30, trained_context_length=4096)

    assert guessed.need_bytes > 1 << 30
    assert guessed.source == "file header"


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"threads": 7}, True),
        ({"max_queued": 7}, True),
        ({"model_path": "elsewhere"}, True),
        ({"context_length": 2048}, False),
        ({"cache_type_k": "q8_0"}, False),
        ({"gpu_layers": 3}, False),
    ],
)
def test_the_estimate_key_depends_on_what_changes_a_size(
    changes: dict[str, object], is_same: bool
) -> None:
    same = compute_estimate_key("sha256:1", config(**changes)) == compute_estimate_key(
        "sha256:1", config()
    )

    assert same is is_same


def test_the_estimate_cache_outlives_the_process_and_ignores_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "engine" / "estimates.json"
    footprint: Footprint = build_footprint(info())
    EstimateCache(path).put("k", footprint)

    assert EstimateCache(path).get("k") == footprint

    path.write_text('{"version": 2, "footprints": {"k": {"weights_bytes": "many"')

    assert EstimateCache(path).get("k") is None


@pytest.mark.parametrize("version", [None, 1, 999])
def test_estimates_of_another_version_are_not_used(tmp_path: Path, version: int | None) -> None:
    path = tmp_path / "estimates.json"
    footprints = {"k": build_footprint(info())}
    stored = footprints if version is None else {"version": version, "footprints": footprints}
    path.write_bytes(msgspec.json.encode(stored))

    assert EstimateCache(path).get("k") is None
