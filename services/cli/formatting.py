"""Format sizes, durations and texts of strangers for people. Pure."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def format_size(size_bytes: float) -> str:
    """A size as `1.1 GB`; units are powers of ten, as disks and registries use them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def format_duration(seconds: float) -> str:
    """A duration as `42 s`, `3 min`, `5 h` or `2 d`."""
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds / length)} {unit}"
    return f"{int(seconds / 86400)} d"


def printable(text: str) -> str:
    """One line of text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """Text without control characters, except for line ends and tabs."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
