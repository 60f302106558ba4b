"""What gives way so that a model fits: the context, then layers, then more of the context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.engine import messages
from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo
from services.engine.front.models.load_planner import Preparation, Prepared
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.process.launcher import Link
from services.engine.memory.estimate import DEVICE_CONTEXT_BYTES, PROCESS_BYTES, EstimateBook
from services.shared.store.manifest import Description, Manifest
from tests.engine.load_defaults import load_defaults

GIB = 1 << 30
LAYERS = 32
WEIGHTS = 8 * GIB
PER_CELL = 128 << 10


class DryRuns:
    """A model of 8 GiB in 32 layers, 128 KiB a cell, trained for 65536; counts what it is asked."""

    def __init__(self, *, tells: bool = True) -> None:
        self.asked: list[LoadConfig] = []
        self._tells = tells

    async def start(
        self,
        config: LoadConfig,
        on_report: Callable[[messages.Report], None],
        on_gone: Callable[[str], None],
    ) -> Link:
        raise AssertionError("nothing is started to find out what it would take")

    async def estimate(self, config: LoadConfig) -> ModelInfo | None:
        self.asked.append(config)
        if not self._tells:
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


async def prepare(
    tmp_path: Path,
    room: dict[str, int],
    *,
    program: DryRuns | None = None,
    model: Manifest | None = None,
    **settings: Any,
) -> Prepared:
    async def path_of(manifest: Manifest) -> Path:
        return Path("model.gguf")

    preparation = Preparation(
        program or DryRuns(),
        EstimateBook(tmp_path / "estimates.json"),
        load_defaults(context_length=8192),
        path_of=path_of,
        max_available_bytes=lambda: room,
    )
    return await preparation.prepare(model or manifest(), ModelSettings(**settings))


def host(gib: float) -> dict[str, int]:
    return {"host": int(gib * GIB) + PROCESS_BYTES}


def gpu(gib: float) -> dict[str, int]:
    return host(64) | {"cuda0": int(gib * GIB) + DEVICE_CONTEXT_BYTES}


@pytest.mark.parametrize(
    ("room", "settings", "cells", "layers"),
    [
        pytest.param(host(9), {}, 8192, 0, id="it fits as it is"),
        pytest.param(host(8.5), {}, 4096, 0, id="the context shrinks"),
        pytest.param(host(8.1), {}, 768, 0, id="as far as it must"),
        pytest.param(host(8.5), {"context_length": 8192}, 8192, 0, id="unless it was asked for"),
        pytest.param(host(8.01), {}, 8192, 0, id="nothing helps, nothing gives way"),
        pytest.param(host(16), {"context_length": 0}, 65536, 0, id="all it was trained for"),
        pytest.param(host(10), {"context_length": 0}, 16384, 0, id="or what fits"),
        pytest.param(host(64), {"context_length": 1 << 20}, 65536, 0, id="never beyond training"),
        pytest.param(gpu(9), {}, 8192, -1, id="all layers on the gpu"),
        pytest.param(gpu(8.6), {}, 4864, -1, id="context before layers"),
        pytest.param(gpu(4.25), {}, 4096, 16, id="layers before a useless context"),
        pytest.param(gpu(4.5), {"context_length": 8192}, 8192, 16, id="layers for a wish"),
        pytest.param(gpu(0.1), {}, 4096, 0, id="a gpu too small for one layer"),
        pytest.param(gpu(9), {"gpu_layers": 0}, 8192, 0, id="no layers when none are wanted"),
    ],
)
async def test_what_gives_way(
    tmp_path: Path, room: dict[str, int], settings: dict[str, Any], cells: int, layers: int
) -> None:
    prepared = await prepare(tmp_path, room, **settings)

    assert (prepared.config.context_length, prepared.config.gpu_layers) == (cells, layers)
    assert prepared.footprint.context_length == cells


async def test_the_authors_context_counts_before_ours(tmp_path: Path) -> None:
    prepared = await prepare(tmp_path, host(64), model=manifest(params={"num_ctx": 2048}))

    assert prepared.config.context_length == 2048


async def test_what_was_found_out_is_not_asked_again(tmp_path: Path) -> None:
    program = DryRuns()
    first = await prepare(tmp_path, gpu(4.25), program=program)
    asked = len(program.asked)
    second = await prepare(tmp_path, gpu(4.25), program=program)

    assert second == first
    assert len(program.asked) == asked <= 4


async def test_without_a_dry_run_there_is_a_guess(tmp_path: Path) -> None:
    prepared = await prepare(tmp_path, host(64), program=DryRuns(tells=False))

    assert prepared.footprint.source == "file header"


async def test_mlx_models_are_for_the_mlx_backend(tmp_path: Path) -> None:
    description = Description(format="mlx", architecture="llama")
    prepared = await prepare(tmp_path, host(64), model=manifest(description=description))

    assert (prepared.config.backend, prepared.config.gpu_layers) == ("mlx", 0)
