"""Sizes, speeds and times as people read them. Pure."""

from __future__ import annotations


def size(size_bytes: float) -> str:
    """As `1.1 GB`: powers of ten, as disks and registries count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """As `42 s`, `3 min`, `5 h` or `2 d`."""
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86400)} d"
