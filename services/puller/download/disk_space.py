"""Is there room: before a download, and while it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.shared.errors import DiskFull

_STEPS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def require_room(folder: Path, *, missing_bytes: int, reserve_bytes: int) -> None:
    """DiskFull when what is still missing does not fit beside the reserve."""
    free_bytes = shutil.disk_usage(folder).free
    if missing_bytes > 0 and free_bytes < missing_bytes + reserve_bytes:
        raise DiskFull(
            f"not enough room: {in_words(missing_bytes)} are still to come, {in_words(free_bytes)} "
            f"are free, and {in_words(reserve_bytes)} of them stay reserved"
        )


def in_words(n_bytes: int) -> str:
    """A size as a person writes it, in decimal units."""
    for unit, size in _STEPS:
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
