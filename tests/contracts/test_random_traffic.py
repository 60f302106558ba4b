"""The contract of batchers under random traffic: see random_traffic.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from services.engine.core import LoadConfig
from services.engine.runner.build import open_batcher
from tests.contracts.batching import BatchRun
from tests.contracts.kinds import build_config
from tests.contracts.random_traffic import Traffic, TrafficRun
from tests.contracts.storing import build_cache, opened

MAX_PROMPT = 900  # characters; two of these prompts fill the memory
FAKE_COUNT, COUNT, MLX_COUNT = 60, 12, 5  # requests; MLX is slow on a processor


@pytest.fixture(scope="module")
def config(
    kind: str, tmp_path_factory: pytest.TempPathFactory, synthetic_model: Callable[[str], Path]
) -> LoadConfig:
    return build_config(kind, tmp_path_factory.mktemp("traffic"), synthetic_model)


@pytest.fixture(scope="module")
def alone(config: LoadConfig) -> Iterator[BatchRun]:
    """A batcher that never has more than one request."""
    batcher = open_batcher(config, lambda _: None)
    yield BatchRun(batcher)
    batcher.close()


def choose_count(kind: str) -> int:
    return FAKE_COUNT if "fake" in kind else MLX_COUNT if "mlx" in kind else COUNT


def send(
    config: LoadConfig, alone: BatchRun, kind: str, folder: Path, *, seed: int, count: int
) -> None:
    traffic = Traffic(random.Random(seed), MAX_PROMPT)
    with opened(msgspec.structs.replace(config, cache=build_cache(folder))) as run:
        traffic_run = TrafficRun(run, alone, traffic, kind)
        traffic_run.send(count)
        assert traffic_run.compared > count / 2


def test_what_requests_share_changes_no_answer(
    config: LoadConfig, alone: BatchRun, kind: str, tmp_path: Path
) -> None:
    send(config, alone, kind, tmp_path, seed=1, count=choose_count(kind))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 10))
def test_what_many_requests_share_changes_no_answer(
    config: LoadConfig, alone: BatchRun, kind: str, tmp_path: Path, seed: int
) -> None:
    send(config, alone, kind, tmp_path, seed=seed, count=200)
