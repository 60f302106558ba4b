"""Check the free disk space, before a download and while it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.shared.errors import DiskFull

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def require_free_space(
    folder: Path, *, missing_bytes: int, reserve_bytes: int, other_bytes: int = 0
) -> None:
    """Raise DiskFull when the missing bytes do not fit beside the reserve.

    `other_bytes` are reserved by other downloads. An error on their account has the detail
    `other_downloads`: waiting for them may help.
    """
    free_bytes = shutil.disk_usage(folder).free
    if missing_bytes > 0 and free_bytes < missing_bytes + reserve_bytes:
        raise DiskFull(
            f"not enough disk space: the download needs {format_bytes(missing_bytes)} more, but"
            f" {format_bytes(free_bytes)} are free, of which {format_bytes(reserve_bytes)} stay"
            " reserved"
        )
    if missing_bytes > 0 and free_bytes < missing_bytes + other_bytes + reserve_bytes:
        raise DiskFull(
            f"the download needs {format_bytes(missing_bytes)} more disk space, but other downloads"
            f" need {format_bytes(other_bytes)} of the {format_bytes(free_bytes)} that are free",
            details={"other_downloads": True},
        )


def format_bytes(n_bytes: int) -> str:
    """A size in decimal units, for messages to people."""
    for unit, size in _UNITS:
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
