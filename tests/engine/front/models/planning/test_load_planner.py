"""What is reduced so that a model fits: the context, then layers, then more of the context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.engine.core import Device, LoadConfig, MemoryPolicy, ModelInfo
from services.engine.front.models.planning.device_choice import Room
from services.engine.front.models.planning.load_estimator import PlannedLoad
from services.engine.front.models.planning.load_planner import LoadPlanner
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.front.process.launcher import RunnerHandle
from services.engine.memory.estimate_cache import EstimateCache
from services.engine.messages import reports
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
        on_report: Callable[[reports.Report], None],
        on_exit: Callable[[str], None],
    ) -> RunnerHandle:
        raise AssertionError("a plan starts no runner that serves")

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        self.estimated.append(config)
        if not self._is_possible:
            return None
        layers = LAYERS if config.gpu_layers == -1 else config.gpu_layers
        assert bool(config.devices) == bool(layers)
        kv = config.context_length * PER_CELL
        on_gpus = (WEIGHTS + kv) * layers // LAYERS
        shares = config.tensor_split or (1.0,) * len(config.devices)
        pools = {
            name: int(on_gpus * share / sum(shares))
            for name, share in zip(config.devices, shares, strict=True)
        }
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
            pool_bytes={"host": WEIGHTS + kv - on_gpus, **pools},
        )


def manifest(**changes: object) -> Manifest:
    description = Description(format="gguf", architecture="llama", context_length=65536)
    base = Manifest(name="m:latest", source="t", created_at=0, files=(), description=description)
    return msgspec.structs.replace(base, **changes)


async def plan(
    tmp_path: Path,
    available: dict[str, int],
    *,
    now: dict[str, int] | None = None,
    launcher: DryRuns | None = None,
    model: Manifest | None = None,
    **settings: Any,
) -> PlannedLoad:
    """Plan with `available` bytes at most, of which `now` are free; one device for each pool."""

    async def resolve_path(manifest: Manifest) -> Path:
        return Path("model.gguf")

    planner = LoadPlanner(
        launcher or DryRuns(),
        EstimateCache(tmp_path / "estimates.json"),
        make_load_defaults(context_length=8192),
        [Device(name=name, label="x", total_bytes=1) for name in available if name != "host"],
        resolve_path=resolve_path,
        measure_room=lambda: Room(now=now or available, at_most=available),
    )
    return await planner.plan(model or manifest(), ModelSettings(**settings))


def host(gib: float) -> dict[str, int]:
    return {"host": int(gib * GIB) + PROCESS_BYTES}


def gpus(*gib: float) -> dict[str, int]:
    sizes = [int(size * GIB) + DEVICE_CONTEXT_BYTES for size in gib]
    return host(64) | {f"cuda{number}": size for number, size in enumerate(sizes)}


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
        pytest.param(gpus(9), {}, 8192, -1, id="all layers fit the gpu"),
        pytest.param(gpus(8.6), {}, 4864, -1, id="the context shrinks before layers leave the gpu"),
        pytest.param(
            gpus(4.25), {}, 4096, 16, id="layers leave the gpu before the context is useless"
        ),
        pytest.param(
            gpus(4.5),
            {"context_length": 8192},
            8192,
            16,
            id="layers leave the gpu for a requested context",
        ),
        pytest.param(gpus(0.1), {}, 4096, 0, id="the gpu is too small for one layer"),
        pytest.param(gpus(0), {}, 8192, 0, id="the gpu is full"),
        pytest.param(
            gpus(0), {"gpu_layers": 4}, 8192, 4, id="requested layers stay on a gpu that is full"
        ),
        pytest.param(
            gpus(9), {"gpu_layers": 0}, 8192, 0, id="no layers on the gpu when 0 are requested"
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


@pytest.mark.parametrize(
    ("available", "now", "settings", "devices", "split"),
    [
        pytest.param(gpus(12, 10), None, {}, ["cuda0"], (), id="the one with the most room"),
        pytest.param(gpus(10, 12), None, {}, ["cuda1"], (), id="whichever it is"),
        pytest.param(gpus(24, 12), gpus(0, 10), {}, ["cuda1"], (), id="room now before more room"),
        pytest.param(gpus(24, 12), gpus(1, 2), {}, ["cuda0"], (), id="more room after evictions"),
        pytest.param(
            gpus(6, 4), None, {}, ["cuda0", "cuda1"], (6.0, 4.0), id="together where none has room"
        ),
        pytest.param(gpus(0, 12), gpus(0, 1), {}, ["cuda1"], (), id="a full one is left out"),
        pytest.param(gpus(24, 12), None, {"main_gpu": 1}, ["cuda1"], (), id="as main_gpu says"),
        pytest.param(
            gpus(24, 24),
            None,
            {"tensor_split": (1.0, 3.0)},
            ["cuda0", "cuda1"],
            (1.0, 3.0),
            id="as tensor_split says",
        ),
        pytest.param(
            gpus(24, 24, 24),
            None,
            {"tensor_split": (0.0, 3.0), "main_gpu": 0},
            ["cuda1"],
            (),
            id="a share of 0 is no share",
        ),
        pytest.param(gpus(24, 24), None, {"gpu_layers": 0}, [], (), id="none for no layers"),
        pytest.param(host(24), None, {"main_gpu": 1}, [], (), id="none where there is none"),
    ],
)
async def test_a_load_is_planned_on_devices_that_have_room(
    tmp_path: Path,
    available: dict[str, int],
    now: dict[str, int] | None,
    settings: dict[str, Any],
    devices: list[str],
    split: tuple[float, ...],
) -> None:
    planned = await plan(tmp_path, available, now=now, **settings)

    assert (list(planned.config.devices), planned.config.tensor_split) == (devices, split)
    # What is promised is on the devices that the runner will see, and nowhere else.
    assert {n for n, size in planned.footprint.need.items() if size} == {"host", *devices}
    assert planned.config.context_length == 8192


async def test_a_model_too_large_for_two_gpus_leaves_layers_in_main_memory(tmp_path: Path) -> None:
    planned = await plan(tmp_path, gpus(3, 2), context_length=8192)

    assert planned.config.devices == ("cuda0", "cuda1")
    assert 16 <= planned.config.gpu_layers <= 18
    need = planned.footprint.need
    assert all(size <= gpus(3, 2)[name] for name, size in need.items())


@pytest.mark.parametrize(
    ("available", "settings"),
    [
        pytest.param(gpus(2, 24), {"main_gpu": 0}, id="main_gpu"),
        pytest.param(gpus(24, 2), {"tensor_split": (1.0, 9.0)}, id="tensor_split"),
    ],
)
async def test_layers_leave_a_small_gpu_of_the_settings_whatever_the_others_have(
    tmp_path: Path, available: dict[str, int], settings: dict[str, Any]
) -> None:
    planned = await plan(tmp_path, available, context_length=8192, **settings)

    assert planned.config.gpu_layers == 7
    assert all(size <= available[name] for name, size in planned.footprint.need.items())


async def test_plans_for_any_free_memory_take_two_dry_runs_in_all(tmp_path: Path) -> None:
    launcher = DryRuns()
    contexts = []
    for gib in (8.2, 8.35, 8.5, 8.65, 8.8, 8.35):
        planned = await plan(tmp_path, host(gib), launcher=launcher)
        contexts.append(planned.config.context_length)
        assert planned.footprint.need_bytes <= host(gib)["host"]

    assert contexts == [1536, 2816, 4096, 5120, 6400, 2816]
    assert [config.context_length for config in launcher.estimated] == [8192, 512]


async def test_a_stored_estimate_saves_the_dry_run(tmp_path: Path) -> None:
    launcher = DryRuns()
    first = await plan(tmp_path, gpus(4.25), launcher=launcher)
    count = len(launcher.estimated)
    second = await plan(tmp_path, gpus(4.25), launcher=launcher)

    assert second == first
    assert len(launcher.estimated) == count <= 4


async def test_without_a_dry_run_the_footprint_is_guessed(tmp_path: Path) -> None:
    planned = await plan(tmp_path, host(64), launcher=DryRuns(is_possible=False))

    assert planned.footprint.source == "file header"


async def test_a_dry_run_that_is_not_possible_is_tried_once_in_a_plan(tmp_path: Path) -> None:
    launcher = DryRuns(is_possible=False)

    planned = await plan(tmp_path, host(1), launcher=launcher)

    assert planned.footprint.source == "file header"
    assert len(launcher.estimated) == 1


async def test_an_mlx_model_is_loaded_by_the_mlx_backend(tmp_path: Path) -> None:
    description = Description(format="mlx", architecture="llama")
    planned = await plan(tmp_path, host(64), model=manifest(description=description))

    assert (planned.config.backend, planned.config.gpu_layers) == ("mlx", 0)
