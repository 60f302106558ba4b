"""What happened in a tier of the prompt cache since the start of the engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from services.engine.core import (
    CacheEvent,
    CacheNotWritten,
    CacheRejected,
    CacheStored,
    CacheUsed,
)


@dataclass(slots=True)
class TierCounts:
    """Totals. `saved_seconds`: what computing the entries that were read took once."""

    hits: int = 0
    read_bytes: int = 0
    saved_seconds: float = 0.0
    stored: int = 0
    stored_bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    not_written: str | None = None  # why the last entry could not be written; None: it was

    def add(self, event: CacheEvent) -> None:
        """Count an event of the tier."""
        match event:
            case CacheStored():
                self.stored += 1
                self.stored_bytes += event.size_bytes
                self.not_written = None
            case CacheUsed(is_read=True):
                self.hits += 1
                self.read_bytes += event.size_bytes
                self.saved_seconds += event.seconds
            case CacheRejected():
                self.rejected[event.reason] += 1
            case CacheNotWritten():
                self.not_written = event.reason
