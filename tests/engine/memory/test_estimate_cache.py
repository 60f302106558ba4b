"""Two dry runs of a model are enough for all contexts between theirs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from services.engine.backends import estimate
from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo
from services.engine.memory.estimate import Footprint, build_footprint
from services.engine.memory.estimate_cache import EstimateCache
from tests.conftest import TINY_GGUF


def footprint(cells: int, *, host: int = 0, **changes: object) -> Footprint:
    """100 bytes, and 2 for each cell, on one device; `host` bytes in main memory."""
    info = ModelInfo(
        architecture="llama",
        vocab_size=1,
        context_length=cells,
        trained_context_length=8192,
        max_sequences=1,
        memory_policy=MemoryPolicy.DENSE,
        gpu_layers=9,
        backend="x",
        weights_bytes=100,
        kv_bytes=2 * cells,
        compute_bytes=0,
        pool_bytes={"cuda0": 100 + 2 * cells - host, "host": host},
    )
    return msgspec.structs.replace(build_footprint(info), **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine" / "estimates.json"


@pytest.fixture
def cache(path: Path) -> EstimateCache:
    return EstimateCache(path)


def test_a_context_between_two_known_ones_takes_no_dry_run(cache: EstimateCache) -> None:
    cache.put("k", footprint(4096))
    cache.put("k", footprint(512))

    assert cache.get("k", 2048) == footprint(2048)
    assert cache.get("k", 2000) == footprint(2048)  # llama.cpp rounds it up
    assert cache.get("k", 4096) == footprint(4096)


@pytest.mark.parametrize("context_length", [64, 4097, 8192])
def test_a_context_outside_of_the_known_ones_takes_a_dry_run(
    cache: EstimateCache, context_length: int
) -> None:
    cache.put("k", footprint(512))
    cache.put("k", footprint(4096))

    assert cache.get("k", context_length) is None
    assert cache.get("other", 2048) is None


def test_the_known_ones_farthest_apart_are_kept(cache: EstimateCache) -> None:
    for cells in (2048, 4096, 1024, 8192, 512):
        cache.put("k", footprint(cells))

    assert cache.get("k", 8192) == footprint(8192)
    assert cache.get("k", 512) == footprint(512)


def test_what_a_load_has_shown_holds_for_all_contexts(cache: EstimateCache) -> None:
    """A dry run does not know which weights stay in main memory, nor what the driver takes."""
    cache.put("k", footprint(512))
    cache.put("k", footprint(4096))
    taken = {"reserve_bytes": {"host": 7, "cuda0": 9}, "source": "earlier load"}

    cache.correct("k", footprint(2048, host=30, **taken))

    assert cache.get("k", 2048) == footprint(2048, host=30, **taken)
    assert cache.get("k", 1024) == footprint(1024, host=30, **taken)


def test_a_load_without_a_dry_run_is_kept_too(cache: EstimateCache) -> None:
    cache.correct("k", footprint(2048))

    assert cache.get("k", 2048) == footprint(2048)


def test_estimates_outlive_the_process_and_a_broken_file_is_ignored(path: Path) -> None:
    EstimateCache(path).put("k", footprint(512))

    assert EstimateCache(path).get("k", 512) == footprint(512)

    path.write_text('{"version": 3, "footprints": {"k": [{"weights_bytes": "many"')

    assert EstimateCache(path).get("k", 512) is None


@pytest.mark.parametrize("version", [None, 1, 2, 999])
def test_estimates_of_another_version_are_not_used(path: Path, version: int | None) -> None:
    footprints = {"k": [footprint(512)]}
    stored = footprints if version is None else {"version": version, "footprints": footprints}
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(stored))

    assert EstimateCache(path).get("k", 512) is None


@pytest.mark.parametrize("flash_attention", [True, False], ids=["flash", "plain"])
def test_the_line_between_two_dry_runs_is_what_llama_cpp_computes(
    cache: EstimateCache, flash_attention: bool
) -> None:
    def run_dry(context_length: int) -> Footprint:
        config = LoadConfig(
            model_path=str(TINY_GGUF),
            backend="llamacpp",
            context_length=context_length,
            flash_attention=flash_attention,
        )
        return build_footprint(estimate(config))

    cache.put("k", run_dry(512))
    cache.put("k", run_dry(65536))
    for cells in (1024, 20480, 40960):
        between, exact = cache.get("k", cells), run_dry(cells)
        assert between is not None
        # llama.cpp logs its sizes in hundredths of a MiB.
        assert between.kv_bytes == pytest.approx(exact.kv_bytes, abs=1 << 15)
        assert between.need_bytes >= exact.need_bytes - (1 << 15)
        assert between.need_bytes <= exact.need_bytes * 1.02
