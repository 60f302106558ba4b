"""Show the progress of a long step.

On a terminal it is one line that is rewritten; otherwise a line is printed every 20 seconds.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from typing import TextIO

LOG_INTERVAL_SECONDS = 20.0
REDRAW_SECONDS = 0.2

_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]\s+(.*)")
_PERCENT = re.compile(r"^\s*\[\s*(\d+)%\]\s+(.*)")
_PIP = re.compile(
    r"^\s*(Collecting|Downloading|Using cached|Building wheel for|Installing collected)\s+(\S+)"
)


def summarize(line: str) -> str | None:
    """The progress in a line of pip, CMake or ninja output, in a few words, or None."""
    if match := _STEP.match(line):
        done, total, what = int(match[1]), int(match[2]), match[3]
        return f"{done} of {total}: {_object(what)}"
    if match := _PERCENT.match(line):
        return f"{match[1]} %: {_object(match[2])}"
    if match := _PIP.match(line):
        return "installing" if match[1] == "Installing collected" else f"{match[1]} {_name(match)}"
    if line.strip().startswith(
        ("*** Configuring", "-- Configuring", "*** Building", "*** Installing")
    ):
        return line.strip(" *-.").split(" ")[0].lower()
    return None


def format_elapsed(seconds: float) -> str:
    """A duration as `42 s` or `3:05`."""
    if seconds < 60:
        return f"{int(seconds)} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


class ProgressLine:
    """The progress of one step at a time."""

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out = out
        self._live = out.isatty()
        self._title = ""
        self._state = ""
        self._began = self._drawn = time.monotonic()

    def begin(self, title: str) -> None:
        """Begin a step; its title appears at once."""
        self._title, self._state = title, ""
        self._began = self._drawn = time.monotonic()
        self._draw() if self._live else self.print_line(f"{title} …")

    def update(self, state: str | None) -> None:
        """Show the state of the step; None: unchanged. Call it at least once a second."""
        self._state = state or self._state
        now = time.monotonic()
        if now - self._drawn < (REDRAW_SECONDS if self._live else LOG_INTERVAL_SECONDS):
            return
        self._drawn = now
        self._draw() if self._live else self.print_line(self._line())

    def end(self, verdict: str) -> None:
        """End the step: print its result and duration."""
        took = format_elapsed(time.monotonic() - self._began)
        self._erase()
        self.print_line(f"{self._title}: {verdict} ({took})")

    def clear(self) -> None:
        """Clear the line of a step that failed or was interrupted."""
        self._erase()

    def print_line(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._out, flush=True)

    def _line(self) -> str:
        elapsed = format_elapsed(time.monotonic() - self._began)
        return f"{self._title} · {elapsed}" + (f" · {self._state}" if self._state else "")

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._out.write("\r\x1b[K" + self._line()[:width])
        self._out.flush()

    def _erase(self) -> None:
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()


def _object(what: str) -> str:
    """The file in `Building CXX object a/b/c.cpp.o`, here `c.cpp`."""
    return what.rsplit(" ", 1)[-1].rsplit("/", 1)[-1].removesuffix(".o")


def _name(match: re.Match[str]) -> str:
    return re.split(r"[=<>!~;\[]", match[2])[0].rsplit("/", 1)[-1]
