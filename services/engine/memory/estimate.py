"""How much memory a model will take, before it is loaded.

The sources of an estimate, best first:

1. `earlier load`   the numbers of a dry run, corrected by what a load with the same settings took
2. `dry run`        a runner process that computes every size exactly and allocates nothing
3. `file header`    a rule of thumb over the size of the files, where no dry run is possible

The sizes are linear in the context length. So two dry runs give them for all lengths in between:
see estimate_cache.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from services.engine.core import (
    CONTEXT_STEP,
    HOST,
    MAX_CHECKPOINT_BYTES,
    LoadConfig,
    MemoryPolicy,
    ModelInfo,
)
from services.shared.memory_assumptions import (
    DEVICE_CONTEXT_BYTES,
    KV_BYTES_PER_CELL,
    PROCESS_BYTES,
    guess_compute_bytes,
)
from services.shared.structs import resolved

EstimateSource = Literal["dry run", "earlier load", "file header"]


@resolved
class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that one model takes with one set of settings, in bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    context_length: int  # the cells that kv_bytes is for
    trained_context_length: int
    gpu_layers: int
    pool_bytes: dict[str, int]  # the sum of the three above by pool, without the reserve
    reserve_bytes: dict[str, int]  # by pool: what the process takes beside the model
    growth_bytes: int = 0  # of main memory, that it may take after the load, up to a limit
    # By pool: the part of all these that is for the context for embeddings.
    embedding_bytes: dict[str, int] = {}
    source: EstimateSource = "dry run"

    @property
    def need(self) -> dict[str, int]:
        """The sum of `pool_bytes`, `reserve_bytes` and `growth_bytes`, by pool."""
        parts = (self.pool_bytes, self.reserve_bytes, {HOST: self.growth_bytes})
        names = sorted({name for part in parts for name in part})
        return {name: sum(part.get(name, 0) for part in parts) for name in names}

    @property
    def need_bytes(self) -> int:
        """The sum of `need` over all pools."""
        return sum(self.need.values())


def build_footprint(info: ModelInfo) -> Footprint:
    """Build a footprint from the sizes that a dry run or a load reported."""
    sizes = info.weights_bytes + info.kv_bytes + info.compute_bytes
    pools = dict(info.pool_bytes) or {HOST: sizes}
    is_recurrent = info.memory_policy is MemoryPolicy.RECURRENT
    return Footprint(
        weights_bytes=info.weights_bytes,
        kv_bytes=info.kv_bytes,
        compute_bytes=info.compute_bytes,
        context_length=info.context_length,
        trained_context_length=info.trained_context_length,
        gpu_layers=info.gpu_layers,
        pool_bytes=pools,
        reserve_bytes=_build_default_reserve(pools),
        growth_bytes=MAX_CHECKPOINT_BYTES if is_recurrent else 0,
        embedding_bytes=dict(info.embedding_bytes),
    )


def guess_footprint(
    config: LoadConfig, *, weights_bytes: int, trained_context_length: int
) -> Footprint:
    """Estimate without a dry run, by a rule of thumb that errs on the large side.

    A context for embeddings counts like the one that generates.
    """
    kv = config.context_length * KV_BYTES_PER_CELL
    if config.kv_mode == "split":
        kv *= config.max_sequences
    compute = guess_compute_bytes(weights_bytes)
    places = config.devices or (HOST,)
    shares = config.tensor_split or (1.0,) * len(places)

    def split(size: int) -> dict[str, int]:
        parts = zip(places, shares, strict=True)
        return {name: int(size * share / sum(shares)) for name, share in parts}

    embeddings = kv + compute if config.embeds else 0
    pools = split(weights_bytes + kv + compute + embeddings)
    return Footprint(
        weights_bytes=weights_bytes,
        kv_bytes=kv,
        compute_bytes=compute,
        context_length=config.context_length,
        trained_context_length=trained_context_length,
        gpu_layers=config.gpu_layers,
        pool_bytes=pools,
        reserve_bytes=_build_default_reserve(pools),
        embedding_bytes=split(embeddings) if embeddings else {},
        source="file header",
    )


def correct_footprint(footprint: Footprint, measured: Mapping[str, int]) -> Footprint:
    """Replace the reserve by what a load took beyond the model's own sizes.

    `measured` is bytes by pool; a pool that it lacks keeps its reserve. The result is never below
    the model's own sizes: a load may not have touched all of its buffers yet.
    """
    reserve = {
        name: max(measured[name] - footprint.pool_bytes.get(name, 0), 0)
        if name in measured
        else size
        for name, size in footprint.reserve_bytes.items()
    }
    return msgspec.structs.replace(footprint, reserve_bytes=reserve, source="earlier load")


def raise_reserve(footprint: Footprint, host_bytes: int) -> Footprint:
    """The footprint, with at least these bytes of main memory: so much does a process take."""
    missing = host_bytes - footprint.need.get(HOST, 0)
    if missing <= 0:
        return footprint
    reserve = {**footprint.reserve_bytes, HOST: footprint.reserve_bytes.get(HOST, 0) + missing}
    return msgspec.structs.replace(footprint, reserve_bytes=reserve)


def add_embeddings(footprint: Footprint, sizes: Mapping[str, int]) -> Footprint:
    """The footprint with a context for embeddings that takes these bytes by pool.

    Where one is in it already, it then has the larger bytes of the two.
    """
    reserve, embedding = dict(footprint.reserve_bytes), dict(footprint.embedding_bytes)
    for name, size in sizes.items():
        missing = max(size - embedding.get(name, 0), 0)
        embedding[name] = embedding.get(name, 0) + missing
        reserve[name] = reserve.get(name, 0) + missing
    return msgspec.structs.replace(footprint, reserve_bytes=reserve, embedding_bytes=embedding)


def interpolate_footprint(smaller: Footprint, larger: Footprint, context_length: int) -> Footprint:
    """The footprint for a context between those of the two, which are of the same load."""
    part = (context_length - smaller.context_length) / (
        larger.context_length - smaller.context_length
    )

    def mix(low: int, high: int) -> int:
        return round(low + (high - low) * part)

    def mix_pools(low: Mapping[str, int], high: Mapping[str, int]) -> dict[str, int]:
        return {name: mix(low.get(name, 0), high.get(name, 0)) for name in sorted({*low, *high})}

    return msgspec.structs.replace(
        larger,
        kv_bytes=mix(smaller.kv_bytes, larger.kv_bytes),
        compute_bytes=mix(smaller.compute_bytes, larger.compute_bytes),
        context_length=context_length,
        pool_bytes=mix_pools(smaller.pool_bytes, larger.pool_bytes),
        reserve_bytes=mix_pools(smaller.reserve_bytes, larger.reserve_bytes),
        embedding_bytes=mix_pools(smaller.embedding_bytes, larger.embedding_bytes),
    )


def find_fitting_context(
    footprint: Footprint, available: Mapping[str, int], *, smaller: Footprint | None = None
) -> int:
    """The largest context, a multiple of CONTEXT_STEP, that fits; 0 when none does.

    `smaller` is the footprint of the same load with a smaller context; the result is between the
    two. Without it the result is an approximation, for every length up to the trained one.
    """
    if smaller is not None:
        per_cell = _measure_bytes_per_cell(smaller, footprint)
        cells = footprint.context_length
    else:
        per_cell = _guess_bytes_per_cell(footprint)
        cells = footprint.trained_context_length or footprint.context_length
    if not any(size > 0 for size in per_cell.values()):
        return 0
    for name, need in footprint.need.items():
        free = available.get(name, 0)
        slope = per_cell.get(name, 0.0)
        if slope > 0:
            cells = min(cells, footprint.context_length + int((free - need) // slope))
        elif need > free:
            return 0
    cells = cells // CONTEXT_STEP * CONTEXT_STEP
    return cells if cells >= (smaller.context_length if smaller is not None else 1) else 0


def _measure_bytes_per_cell(smaller: Footprint, larger: Footprint) -> dict[str, float]:
    cells = larger.context_length - smaller.context_length
    return {
        name: (size - smaller.pool_bytes.get(name, 0)) / cells
        for name, size in larger.pool_bytes.items()
    }


def _guess_bytes_per_cell(footprint: Footprint) -> dict[str, float]:
    """A pool's part of the KV cache is not known: take it as the pool's part of the whole model."""
    total = sum(footprint.pool_bytes.values())
    if footprint.kv_bytes <= 0 or footprint.context_length <= 0 or total <= 0:
        return {}
    return {
        name: footprint.kv_bytes / footprint.context_length * size / total
        for name, size in footprint.pool_bytes.items()
    }


def compute_estimate_key(digest: str, config: LoadConfig) -> str:
    """A key that is equal for loads of one model that differ in nothing but the context length.

    Or in what changes no size.
    """
    parts = (
        digest,
        config.backend,
        config.max_sequences,
        config.batch_tokens,
        config.gpu_layers,
        config.tensor_split,
        config.devices,
        config.cache_type_k,
        config.cache_type_v,
        config.kv_mode,
        config.flash_attention,
        config.embeds,
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def build_dry_run_footprint(config: LoadConfig) -> Footprint:
    """What a dry run takes itself: the driver's context on each device.

    Its process takes less main memory than the reserve that `auto` leaves to the system.
    """
    return Footprint(
        weights_bytes=0,
        kv_bytes=0,
        compute_bytes=0,
        context_length=0,
        trained_context_length=0,
        gpu_layers=0,
        pool_bytes={},
        reserve_bytes={name: DEVICE_CONTEXT_BYTES for name in config.devices if name != HOST},
    )


def _build_default_reserve(pools: Mapping[str, int]) -> dict[str, int]:
    reserve = {name: DEVICE_CONTEXT_BYTES for name in pools if name != HOST}
    return {HOST: PROCESS_BYTES, **reserve}
