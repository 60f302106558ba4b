"""How much memory a model will take, before it is loaded, and what it really took last time.

1. `dry run`        a runner child loads nothing and allocates nothing, yet knows every size exactly
2. `earlier load`   a dry run's numbers, corrected by what a load of the same settings took
3. `file header`    where a dry run is not to be had: the files' size and a rule of thumb

Remembered per (model digest, settings that change a size) in `DATA/estimates.json`.
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
from services.shared.structs import resolved

Source = Literal["dry run", "earlier load", "file header"]

# What a runner takes beside the model: interpreter, numpy, llama.cpp, token tables; and on each
# device the driver's context with its kernels.
PROCESS_BYTES = 192 << 20
DEVICE_CONTEXT_BYTES = 512 << 20

_KV_BYTES_PER_CELL_GUESS = 128 << 10  # 32 layers of 8 heads of 128, f16
_MOST_REMEMBERED = 512

logger = logging.getLogger(__name__)


@resolved
class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What one model with one set of settings takes, in bytes."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    context_length: int  # the cells that kv_bytes is for
    trained_context_length: int
    gpu_layers: int
    pool_bytes: dict[str, int]  # the three above by pool, without the reserve
    reserve_bytes: dict[str, int]  # by pool: beside the model itself
    source: Source = "dry run"

    @property
    def need(self) -> dict[str, int]:
        """All of it, by pool."""
        names = {*self.pool_bytes, *self.reserve_bytes}
        return {n: self.pool_bytes.get(n, 0) + self.reserve_bytes.get(n, 0) for n in sorted(names)}

    @property
    def need_bytes(self) -> int:
        """All of it."""
        return sum(self.need.values())


def footprint_of(info: ModelInfo) -> Footprint:
    """What a dry run (or a load) told."""
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
        reserve_bytes=_reserve(pools),
    )


def guess(config: LoadConfig, *, weights_bytes: int, trained_context_length: int) -> Footprint:
    """A rule of thumb that errs on the large side, for when no dry run can be had."""
    kv = config.context_length * _KV_BYTES_PER_CELL_GUESS
    compute = max(weights_bytes // 10, 128 << 20)
    pools = {("cuda0" if config.gpu_layers else HOST): weights_bytes + kv + compute}
    return Footprint(
        weights_bytes=weights_bytes,
        kv_bytes=kv,
        compute_bytes=compute,
        context_length=config.context_length,
        trained_context_length=trained_context_length,
        gpu_layers=config.gpu_layers,
        pool_bytes=pools,
        reserve_bytes=_reserve(pools),
        source="file header",
    )


def corrected(footprint: Footprint, measured: Mapping[str, int]) -> Footprint:
    """The footprint, its reserve replaced by what the load really took beyond the model's sizes.

    Never below what the sizes themselves say: mapped weights may not have been touched yet.
    """
    reserve = {
        name: max(measured[name] - footprint.pool_bytes.get(name, 0), 0)
        if name in measured
        else size
        for name, size in footprint.reserve_bytes.items()
    }
    return msgspec.structs.replace(footprint, reserve_bytes=reserve, source="earlier load")


def fitting_context(footprint: Footprint, room: Mapping[str, int], *, step: int = 256) -> int:
    """The largest context (a multiple of `step`) whose cells fit the room; 0 when none does.

    Taken as linear in the cells, which is exact for plain attention and on the safe side for
    sliding windows.
    """
    total = sum(footprint.pool_bytes.values())
    if footprint.kv_bytes <= 0 or footprint.context_length <= 0 or total <= 0:
        return 0
    cells = footprint.trained_context_length or footprint.context_length
    for name, size in footprint.need.items():
        # A pool's share of the cells is not told apart: take it as its share of everything.
        share = footprint.pool_bytes.get(name, 0) / total
        per_cell = footprint.kv_bytes * share / footprint.context_length
        fixed = size - footprint.kv_bytes * share
        if per_cell > 0:
            cells = min(cells, int((room.get(name, 0) - fixed) / per_cell))
        elif fixed > room.get(name, 0):
            return 0
    return max(cells // step * step, 0)


def estimate_key(digest: str, config: LoadConfig) -> str:
    """Equal for loads that take equal memory."""
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


class EstimateBook:
    """Footprints by `estimate_key`, on disk. Event loop only; a lost or broken file costs a dry run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._read()

    def get(self, key: str) -> Footprint | None:
        """What is remembered."""
        return self._known.get(key)

    def put(self, key: str, footprint: Footprint) -> None:
        """Remember, and write the file; the oldest entries go first."""
        self._known.pop(key, None)
        self._known[key] = footprint
        while len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._write()

    def _read(self) -> dict[str, Footprint]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Footprint])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("estimates not readable", extra={"reason": str(error)})
            return {}

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(self._known))
            partial.replace(self._path)
        except OSError as error:  # a read-only data folder: remembered until we end
            logger.warning("estimates not written", extra={"reason": str(error)})


def _reserve(pools: Mapping[str, int]) -> dict[str, int]:
    reserve = {name: DEVICE_CONTEXT_BYTES for name in pools if name != HOST}
    return {HOST: PROCESS_BYTES, **reserve}
