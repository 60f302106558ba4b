"""`logs`: show the log files of the services, and follow them."""

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
    """Print the last lines of each log; with `follow` also new lines, until Ctrl-C."""
    files = sorted(paths.logs_dir.glob("*.log"))
    if service is not None:
        files = [file for file in files if file.stem == service]
    if not files:
        names = ", ".join(sorted(file.stem for file in paths.logs_dir.glob("*.log")))
        raise CommandError(
            f"there is no log of {service}; choose one of: {names}"
            if names
            else "there are no logs yet"
        )
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
            text, offsets[file] = _read_added(file, offsets[file])
            for line in text.splitlines():
                _print(file, line, files)
        time.sleep(POLL_SECONDS)


def _read_added(file: Path, offset: int) -> tuple[str, int]:
    """The whole lines after an offset, and the new offset; a file that shrank is read again."""
    if size(file) < offset:
        offset = 0
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            added = stream.read()
    except FileNotFoundError:  # it is being rotated
        return "", 0
    whole = added[: added.rfind(b"\n") + 1]
    return whole.decode(errors="replace"), offset + len(whole)


def _print(file: Path, line: str, files: Sequence[Path]) -> None:
    print(line if len(files) == 1 else f"{file.stem:<10} {line}", flush=True)
