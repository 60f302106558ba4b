"""The estimates that are kept: by model and settings, for two context lengths each.

    estimates.json   key of the load -> its footprint with the smallest and with the largest context

Every size is linear in the context length, or the maximum of several that are. So a footprint
between the two is found without a dry run, and is never too small.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from services.engine.core import CONTEXT_STEP
from services.engine.memory.estimate import Footprint, interpolate_footprint
from services.shared.structs import resolved

_MAX_ENTRIES = 512
_VERSION = 4  # raised when a stored footprint means something else

logger = logging.getLogger(__name__)


@resolved
class _EstimateFile(msgspec.Struct, frozen=True, kw_only=True):
    """`estimates.json`. A file of another version is ignored."""

    version: int = _VERSION
    footprints: dict[str, tuple[Footprint, ...]]  # one or two, in the order of their contexts


class EstimateCache:
    """Footprints by `compute_estimate_key`, on disk. Event loop only.

    A file that is missing or broken costs dry runs and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._footprints = self._read()

    def get(self, key: str, context_length: int) -> Footprint | None:
        """The footprint of a load with this context; None where that takes a dry run."""
        return _find(self._footprints.get(key, ()), context_length)

    def put(self, key: str, footprint: Footprint) -> None:
        """Keep the result of a dry run and write the file. The oldest entries are dropped first."""
        known = {f.context_length: f for f in self._footprints.pop(key, ())}
        known[footprint.context_length] = footprint
        ends = sorted({min(known), max(known)})
        self._footprints[key] = tuple(known[cells] for cells in ends)
        while len(self._footprints) > _MAX_ENTRIES:
            del self._footprints[next(iter(self._footprints))]
        self._write()

    def correct(self, key: str, actual: Footprint) -> None:
        """Shift the footprints of a load by how far this one, of a real load, is from them."""
        known = self._footprints.get(key, ())
        expected = _find(known, actual.context_length)
        if expected is None:
            self.put(key, actual)
            return
        self._footprints[key] = tuple(_shift(f, expected, actual) for f in known)
        self._write()

    def _read(self) -> dict[str, tuple[Footprint, ...]]:
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


def _find(known: Sequence[Footprint], context_length: int) -> Footprint | None:
    cells = -(-context_length // CONTEXT_STEP) * CONTEXT_STEP
    for footprint in known:
        if footprint.context_length in (context_length, cells):
            return footprint
    for smaller, larger in pairwise(known):
        if smaller.context_length < context_length < larger.context_length:
            return interpolate_footprint(smaller, larger, min(cells, larger.context_length))
    return None


def _shift(footprint: Footprint, expected: Footprint, actual: Footprint) -> Footprint:
    """The footprint with the places of `actual`, and its reserve."""
    pools = {*footprint.pool_bytes, *actual.pool_bytes}
    return msgspec.structs.replace(
        actual,
        kv_bytes=footprint.kv_bytes,
        compute_bytes=footprint.compute_bytes,
        context_length=footprint.context_length,
        embedding_bytes=footprint.embedding_bytes,
        pool_bytes={
            name: max(
                footprint.pool_bytes.get(name, 0)
                + actual.pool_bytes.get(name, 0)
                - expected.pool_bytes.get(name, 0),
                0,
            )
            for name in sorted(pools)
        },
    )
