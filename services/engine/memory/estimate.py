"""How much memory a model will take, before it is loaded.

The sources of an estimate, best first:

1. `earlier load`   the numbers of a dry run, corrected by what a load with the same settings took
2. `dry run`        a runner process that computes every size exactly and allocates nothing
3. `file header`    a rule of thumb over the size of the files, where no dry run is possible

Estimates are kept by the model's digest and the settings that change a size, in
`DATA/engine/estimates.json`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from services.engine.core import LoadConfig, ModelInfo
from services.engine.memory.probe import HOST
from services.shared.memory_assumptions import (
    DEVICE_CONTEXT_BYTES,
    KV_BYTES_PER_CELL,
    PROCESS_BYTES,
    guess_compute_bytes,
)
from services.shared.structs import resolved

EstimateSource = Literal["dry run", "earlier load", "file header"]

CONTEXT_STEP = 256  # cells
_MAX_ENTRIES = 512
_VERSION = 2  # 1 counted weights in main memory twice

logger = logging.getLogger(__name__)


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
    source: EstimateSource = "dry run"

    @property
    def need(self) -> dict[str, int]:
        """The sum of `pool_bytes` and `reserve_bytes`, by pool."""
        names = {*self.pool_bytes, *self.reserve_bytes}
        return {n: self.pool_bytes.get(n, 0) + self.reserve_bytes.get(n, 0) for n in sorted(names)}

    @property
    def need_bytes(self) -> int:
        """The sum of `need` over all pools."""
        return sum(self.need.values())


def build_footprint(info: ModelInfo) -> Footprint:
    """Build a footprint from the sizes that a dry run or a load reported."""
    sizes = info.weights_bytes + info.kv_bytes + info.compute_bytes
    pools = dict(info.pool_bytes) or {("cuda0" if info.gpu_layers else HOST): sizes}
    return Footprint(
        weights_bytes=info.weights_bytes,
        kv_bytes=info.kv_bytes,
        compute_bytes=info.compute_bytes,
        context_length=info.context_length,
        trained_context_length=info.trained_context_length,
        gpu_layers=info.gpu_layers,
        pool_bytes=pools,
        reserve_bytes=_build_default_reserve(pools),
    )


def guess_footprint(
    config: LoadConfig, *, weights_bytes: int, trained_context_length: int
) -> Footprint:
    """Estimate without a dry run, by a rule of thumb that errs on the large side."""
    kv = config.context_length * KV_BYTES_PER_CELL
    compute = guess_compute_bytes(weights_bytes)
    pools = {("cuda0" if config.gpu_layers else HOST): weights_bytes + kv + compute}
    return Footprint(
        weights_bytes=weights_bytes,
        kv_bytes=kv,
        compute_bytes=compute,
        context_length=config.context_length,
        trained_context_length=trained_context_length,
        gpu_layers=config.gpu_layers,
        pool_bytes=pools,
        reserve_bytes=_build_default_reserve(pools),
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


def find_fitting_context(footprint: Footprint, available: Mapping[str, int]) -> int:
    """The largest context, a multiple of CONTEXT_STEP, that fits; 0 when none does.

    The KV cache is taken as linear in the cells. That is exact for plain attention and an
    approximation for sliding windows.
    """
    total = sum(footprint.pool_bytes.values())
    if footprint.kv_bytes <= 0 or footprint.context_length <= 0 or total <= 0:
        return 0
    cells = footprint.trained_context_length or footprint.context_length
    for name, size in footprint.need.items():
        # A pool's part of the KV cache is not known: take it as the pool's part of the whole model.
        share = footprint.pool_bytes.get(name, 0) / total
        per_cell = footprint.kv_bytes * share / footprint.context_length
        fixed = size - footprint.kv_bytes * share
        if per_cell > 0:
            cells = min(cells, int((available.get(name, 0) - fixed) / per_cell))
        elif fixed > available.get(name, 0):
            return 0
    return max(cells // CONTEXT_STEP * CONTEXT_STEP, 0)


def compute_estimate_key(digest: str, config: LoadConfig) -> str:
    """A key that is equal for loads of one model that take equal memory."""
    parts = (
        digest,
        config.backend,
        config.context_length,
        config.max_sequences,
        config.batch_tokens,
        config.gpu_layers,
        config.tensor_split,
        config.main_gpu,
        config.cache_type_k,
        config.cache_type_v,
        config.flash_attention,
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


@resolved
class _EstimateFile(msgspec.Struct, frozen=True, kw_only=True):
    """`estimates.json`. A file of another version is ignored."""

    version: int = _VERSION
    footprints: dict[str, Footprint]


class EstimateCache:
    """Footprints by `compute_estimate_key`, on disk. Event loop only.

    A file that is missing or broken costs a dry run and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._footprints = self._read()

    def get(self, key: str) -> Footprint | None:
        """The footprint stored under the key."""
        return self._footprints.get(key)

    def put(self, key: str, footprint: Footprint) -> None:
        """Store a footprint and write the file. The oldest entries are dropped first."""
        self._footprints.pop(key, None)
        self._footprints[key] = footprint
        while len(self._footprints) > _MAX_ENTRIES:
            del self._footprints[next(iter(self._footprints))]
        self._write()

    def _read(self) -> dict[str, Footprint]:
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=_EstimateFile)
            return stored.footprints if stored.version == _VERSION else {}
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("estimates not readable", extra={"reason": str(error)})
            return {}

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(_EstimateFile(footprints=self._footprints)))
            partial.replace(self._path)
        except OSError as error:  # a read-only data folder: the entries live as long as the process
            logger.warning("estimates not written", extra={"reason": str(error)})


def _build_default_reserve(pools: Mapping[str, int]) -> dict[str, int]:
    reserve = {name: DEVICE_CONTEXT_BYTES for name in pools if name != HOST}
    return {HOST: PROCESS_BYTES, **reserve}
