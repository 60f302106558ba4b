"""`logs`: the services' log files, one after another or followed together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise.logfiles import last_lines, size

POLL_SECONDS = 0.25


def logs(paths: StackPaths, service: str | None, *, lines: int, follow: bool) -> None:
    """Print the end of each log; with `follow` what is added, until Ctrl-C."""
    files = sorted(paths.logs_dir.glob("*.log"))
    if service is not None:
        files = [file for file in files if file.stem == service]
    if not files:
        known = ", ".join(sorted(file.stem for file in paths.logs_dir.glob("*.log")))
        raise CommandError(f"no log of {service}; there are: {known}" if known else "no logs yet")
    offsets = {file: size(file) for file in files}
    for file in files:
        for line in last_lines(file, lines) if lines else ():
            _print(file, line, files)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(files, offsets)


def _follow(files: Sequence[Path], offsets: dict[Path, int]) -> None:
    while True:
        for file in files:
            text, offsets[file] = _added(file, offsets[file])
            for line in text.splitlines():
                _print(file, line, files)
        time.sleep(POLL_SECONDS)


def _added(file: Path, offset: int) -> tuple[str, int]:
    """Whole lines after the offset, and the new offset; a shorter file was begun anew."""
    if size(file) < offset:
        offset = 0
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            added = stream.read()
    except FileNotFoundError:  # being rotated
        return "", 0
    whole = added[: added.rfind(b"\n") + 1]
    return whole.decode(errors="replace"), offset + len(whole)


def _print(file: Path, line: str, files: Sequence[Path]) -> None:
    print(line if len(files) == 1 else f"{file.stem:<10} {line}", flush=True)
