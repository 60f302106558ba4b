"""Open and rotate the log files of the services.

A service keeps its file open and appends to it. So a file that grows too large while the service
runs is copied and then truncated in place; the service continues to append at the new end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

MAX_BYTES = 10 << 20
MAX_ROTATED = 3


def open_log(path: Path) -> int:
    """Open a log for appending, after rotating a large one. The caller closes the descriptor."""
    if size(path) > MAX_BYTES:
        _shift_rotated(path)
        path.replace(_rotated_path(path, 1))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def rotate_in_place(path: Path) -> bool:
    """Copy a large log and truncate it in place; whether it was large."""
    if size(path) <= MAX_BYTES:
        return False
    _shift_rotated(path)
    shutil.copyfile(path, _rotated_path(path, 1))
    os.truncate(path, 0)
    return True


def rotate_all(folder: Path) -> None:
    """Rotate the large logs of a folder in place; one that cannot be rotated stays as it is.

    The supervisor's own is among them: a detached one and launchd's keep it open all the time.
    """
    for path in sorted(folder.glob("*.log")):
        with contextlib.suppress(OSError):
            rotate_in_place(path)


def size(path: Path) -> int:
    """The size of a log in bytes; 0 when it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(path: Path, count: int, *, since_byte: int = 0) -> list[str]:
    """The last lines of a log, of those that begin at or after a byte."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since_byte if since_byte <= size else 0, size - (1 << 18)))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-count:]


def _shift_rotated(path: Path) -> None:
    for number in range(MAX_ROTATED - 1, 0, -1):
        if _rotated_path(path, number).exists():
            _rotated_path(path, number).replace(_rotated_path(path, number + 1))


def _rotated_path(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
