"""MLX batchers for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.engine.runner.batcher import Batcher
from services.engine.runner.build import open_batcher
from tests.conftest import TINY_MLX
from tests.contracts.batching import BatchRun
from tests.engine.backends.mlx.mlx_tests import build_config, skip_without_mlx


@pytest.fixture(autouse=True)
def _mlx() -> None:
    skip_without_mlx()


@pytest.fixture
def make_run() -> Iterator[Callable[..., BatchRun]]:
    opened: list[Batcher] = []

    def make(folder: Path = TINY_MLX, **changes: Any) -> BatchRun:
        opened.append(open_batcher(build_config(folder, **changes), lambda _: None))
        return BatchRun(opened[-1])

    yield make
    for batcher in opened:
        batcher.close()


@pytest.fixture
def run(make_run: Callable[..., BatchRun]) -> BatchRun:
    return make_run()
