"""What the backend has to do with its memory before a step, as the sequence pool decided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """Call Backend.share, and Backend.load where there is a checkpoint."""

    source: int
    target: int
    end: int
    checkpoint: bytes | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Call Backend.cut."""

    sequence: int
    start: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Call Backend.drop."""

    sequence: int


MemoryOperation = Share | Cut | Drop
