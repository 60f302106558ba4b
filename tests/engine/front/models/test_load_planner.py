"""What is reduced so that a model fits: the context, then layers, then more of the context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.engine import messages
from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo
from services.engine.front.models.load_planner import LoadPlanner, PlannedLoad
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.process.launcher import RunnerHandle
from services.engine.memory.estimate import EstimateCache
from services.shared.memory_assumptions import DEVICE_CONTEXT_BYTES, PROCESS_BYTES
from services.shared.store.manifest import Description, Manifest
from tests.engine.load_defaults import make_load_defaults

GIB = 1 << 30
LAYERS = 32
WEIGHTS = 8 * GIB
PER_CELL = 128 << 10


class DryRuns:
    """Estimates for a model of 8 GiB with 32 layers, 128 KiB for each cell, trained for 65536."""

    def __init__(self, *, is_possible: bool = True) -> None:
        self.estimated: list[LoadConfig] = []
        self._is_possible = is_possible

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_exit: Callable[[str], None],
    ) -> RunnerHandle:
        raise AssertionError("a plan starts no runner that serves")

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        self.estimated.append(config)
        if not self._is_possible:
            return None
        layers = LAYERS if config.gpu_layers == -1 else config.gpu_layers
        kv = config.context_length * PER_CELL
        on_gpu = (WEIGHTS + kv) * layers // LAYERS
        return ModelInfo(
            architecture="llama",
            vocab_size=1,
            context_length=config.context_length,
            trained_context_length=65536,
            max_sequences=16,
            memory_policy=MemoryPolicy.DENSE,
            gpu_layers=layers,
            backend="x",
            weights_bytes=WEIGHTS,
            kv_bytes=kv,
            compute_bytes=0,
            pool_bytes={"host": WEIGHTS + kv - on_gpu} | ({"cuda0": on_gpu} if layers else {}),
        )


def manifest(**changes: object) -> Manifest:
    description = Description(format="gguf", architecture="llama", context_length=65536)
    base = Manifest(name="m:latest", source="t", created_at=0, files=(), description=description)
    return msgspec.structs.replace(base, **changes)


async def plan(
    tmp_path: Path,
    available: dict[str, int],
    *,
    launcher: DryRuns | None = None,
    model: Manifest | None = None,
    **settings: Any,
) -> PlannedLoad:
    async def resolve_path(manifest: Manifest) -> Path:
        return Path("model.gguf")

    planner = LoadPlanner(
        launcher or DryRuns(),
        EstimateCache(tmp_path / "estimates.json"),
        make_load_defaults(context_length=8192),
        resolve_path=resolve_path,
        compute_max_available_bytes=lambda: available,
    )
    return await planner.plan(model or manifest(), ModelSettings(**settings))


def host(gib: float) -> dict[str, int]:
    return {"host": int(gib * GIB) + PROCESS_BYTES}


def gpu(gib: float) -> dict[str, int]:
    return host(64) | {"cuda0": int(gib * GIB) + DEVICE_CONTEXT_BYTES}


@pytest.mark.parametrize(
    ("available", "settings", "cells", "layers"),
    [
        pytest.param(host(9), {}, 8192, 0, id="the requested load fits"),
        pytest.param(host(8.5), {}, 4096, 0, id="the context shrinks"),
        pytest.param(host(8.1), {}, 768, 0, id="the context shrinks further"),
        pytest.param(
            host(8.5), {"context_length": 8192}, 8192, 0, id="a requested context does not shrink"
        ),
        pytest.param(host(8.01), {}, 8192, 0, id="nothing is reduced when that does not help"),
        pytest.param(host(16), {"context_length": 0}, 65536, 0, id="0 is all it was trained for"),
        pytest.param(host(10), {"context_length": 0}, 16384, 0, id="or the largest that fits"),
        pytest.param(
            host(64), {"context_length": 1 << 20}, 65536, 0, id="not more than it was trained for"
        ),
        pytest.param(gpu(9), {}, 8192, -1, id="all layers fit the gpu"),
        pytest.param(gpu(8.6), {}, 4864, -1, id="the context shrinks before layers leave the gpu"),
        pytest.param(
            gpu(4.25), {}, 4096, 16, id="layers leave the gpu before the context is useless"
        ),
        pytest.param(
            gpu(4.5),
            {"context_length": 8192},
            8192,
            16,
            id="layers leave the gpu for a requested context",
        ),
        pytest.param(gpu(0.1), {}, 4096, 0, id="the gpu is too small for one layer"),
        pytest.param(
            gpu(9), {"gpu_layers": 0}, 8192, 0, id="no layers on the gpu when 0 are requested"
        ),
    ],
)
async def test_a_load_is_reduced_until_it_fits(
    tmp_path: Path, available: dict[str, int], settings: dict[str, Any], cells: int, layers: int
) -> None:
    planned = await plan(tmp_path, available, **settings)

    assert (planned.config.context_length, planned.config.gpu_layers) == (cells, layers)
    assert planned.footprint.context_length == cells


async def test_num_ctx_of_the_manifest_goes_before_the_default_context(tmp_path: Path) -> None:
    planned = await plan(tmp_path, host(64), model=manifest(params={"num_ctx": 2048}))

    assert planned.config.context_length == 2048


async def test_a_stored_estimate_saves_the_dry_run(tmp_path: Path) -> None:
    launcher = DryRuns()
    first = await plan(tmp_path, gpu(4.25), launcher=launcher)
    count = len(launcher.estimated)
    second = await plan(tmp_path, gpu(4.25), launcher=launcher)

    assert second == first
    assert len(launcher.estimated) == count <= 4


async def test_without_a_dry_run_the_footprint_is_guessed(tmp_path: Path) -> None:
    planned = await plan(tmp_path, host(64), launcher=DryRuns(is_possible=False))

    assert planned.footprint.source == "file header"


async def test_an_mlx_model_is_loaded_by_the_mlx_backend(tmp_path: Path) -> None:
    description = Description(format="mlx", architecture="llama")
    planned = await plan(tmp_path, host(64), model=manifest(description=description))

    assert (planned.config.backend, planned.config.gpu_layers) == ("mlx", 0)
