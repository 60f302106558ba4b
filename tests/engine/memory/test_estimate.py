from __future__ import annotations

import msgspec
import pytest

from services.engine.core import LoadConfig, MemoryPolicy, ModelInfo
from services.engine.memory.estimate import (
    add_embeddings,
    build_footprint,
    compute_estimate_key,
    correct_footprint,
    find_fitting_context,
    guess_footprint,
    interpolate_footprint,
    raise_reserve,
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


def test_the_footprint_of_a_recurrent_model_includes_the_checkpoints_that_it_may_keep() -> None:
    footprint = build_footprint(info(memory_policy=MemoryPolicy.RECURRENT))

    assert footprint.need == {"host": 2124 + PROCESS_BYTES + (512 << 20)}
    # A load has none yet: what it takes says nothing about them.
    assert correct_footprint(footprint, {"host": 5000}).need == {"host": 5000 + (512 << 20)}


def test_a_process_that_takes_more_than_promised_raises_the_promise_and_never_lowers_it() -> None:
    footprint = build_footprint(info(pool_bytes={"host": 124, "cuda0": 2000}, gpu_layers=9))
    promised = footprint.need["host"]

    larger = raise_reserve(footprint, promised + 1000)

    assert larger.need == {**footprint.need, "host": promised + 1000}
    assert raise_reserve(larger, promised) == larger


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


@pytest.mark.parametrize(
    ("available", "cells"),
    [(9000, 4096), (5999, 3328), (3036, 1536), (3035, 1280), (1500, 512), (1499, 0)],
)
def test_between_two_footprints_the_fitting_context_is_exact(available: int, cells: int) -> None:
    """A cache of 1 byte for each cell, and a buffer of half a byte, behind 732 bytes."""
    small = build_footprint(info(context_length=512, pool_bytes={"host": 732 + 768}))
    large = build_footprint(info(context_length=4096, pool_bytes={"host": 732 + 6144}))

    fitting = find_fitting_context(large, {"host": PROCESS_BYTES + available}, smaller=small)

    assert fitting == cells


def test_a_footprint_in_between_is_on_the_line() -> None:
    pools = ({"host": 100, "cuda0": 1000}, {"host": 300, "cuda0": 3000})
    small, large = (
        build_footprint(info(context_length=cells, kv_bytes=cells, pool_bytes=pool))
        for cells, pool in zip((512, 1536), pools, strict=True)
    )

    between = interpolate_footprint(small, large, 768)

    assert (between.context_length, between.kv_bytes) == (768, 768)
    assert between.pool_bytes == {"host": 150, "cuda0": 1500}
    assert between.reserve_bytes == large.reserve_bytes


def test_a_guessed_footprint_is_larger_than_the_file() -> None:
    guessed = guess_footprint(config(), weights_bytes=1 << 30, trained_context_length=4096)

    assert guessed.need_bytes > 1 << 30
    assert guessed.source == "file header"


def test_a_guess_counts_the_context_for_embeddings_like_the_one_that_generates() -> None:
    sizes = {"weights_bytes": 1 << 30, "trained_context_length": 4096}
    alone = guess_footprint(config(), **sizes)
    both = guess_footprint(config(embeds=True), **sizes)

    assert both.embedding_bytes == {"host": alone.kv_bytes + alone.compute_bytes}
    assert both.need_bytes == alone.need_bytes + both.embedding_bytes["host"]


def test_a_context_for_embeddings_is_counted_once() -> None:
    """Its bytes are committed first, and reported by the runner when it was created."""
    before = build_footprint(info(pool_bytes={"cuda0": 1000}))
    committed = add_embeddings(before, {"cuda0": 500, "host": 100})
    created = add_embeddings(committed, {"cuda0": 400, "host": 130})

    assert committed.need["cuda0"] == created.need["cuda0"] == before.need["cuda0"] + 500
    assert created.need["host"] == before.need["host"] + 130
    assert created.embedding_bytes == {"cuda0": 500, "host": 130}


def test_a_guessed_footprint_is_on_the_devices_of_the_load() -> None:
    split = config(gpu_layers=-1, devices=("cuda0", "cuda2"), tensor_split=(3.0, 1.0))

    guessed = guess_footprint(split, weights_bytes=1 << 30, trained_context_length=4096)

    assert guessed.pool_bytes["cuda0"] == 3 * guessed.pool_bytes["cuda2"]
    assert guessed.reserve_bytes == {
        "host": PROCESS_BYTES,
        "cuda0": DEVICE_CONTEXT_BYTES,
        "cuda2": DEVICE_CONTEXT_BYTES,
    }


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"threads": 7}, True),
        ({"max_queued": 7}, True),
        ({"model_path": "elsewhere"}, True),
        ({"context_length": 2048}, True),  # see estimate_cache.py
        ({"cache_type_k": "q8_0"}, False),
        ({"kv_mode": "split"}, False),
        ({"gpu_layers": 3}, False),
        ({"devices": ("cuda0",)}, False),
        ({"tensor_split": (1.0, 2.0)}, False),
    ],
)
def test_the_estimate_key_depends_on_what_changes_a_size(
    changes: dict[str, object], is_same: bool
) -> None:
    same = compute_estimate_key("sha256:1", config(**changes)) == compute_estimate_key(
        "sha256:1", config()
    )

    assert same is is_same
