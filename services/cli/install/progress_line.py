"""Show that a long step moves: one line that is rewritten on a terminal, a line now and then in a log.

`summary` is pure: what pip, CMake and ninja print, as a few words.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from typing import TextIO

QUIET_SECONDS = 20.0
REDRAW_SECONDS = 0.2

_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]\s+(.*)")
_PERCENT = re.compile(r"^\s*\[\s*(\d+)%\]\s+(.*)")
_PIP = re.compile(
    r"^\s*(Collecting|Downloading|Using cached|Building wheel for|Installing collected)\s+(\S+)"
)


def summary(line: str) -> str | None:
    """What a line of build output says about how far it is; None when it says nothing."""
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


def duration(seconds: float) -> str:
    """As `42 s` or `3:05`."""
    if seconds < 60:
        return f"{int(seconds)} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


class ProgressLine:
    """Where the progress of one step goes. Not for two steps at once."""

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out = out
        self._live = out.isatty()
        self._title = ""
        self._state = ""
        self._began = self._drawn = time.monotonic()

    def begin(self, title: str) -> None:
        """Name the step; it appears at once."""
        self._title, self._state = title, ""
        self._began = self._drawn = time.monotonic()
        self._draw() if self._live else self.say(f"{title} …")

    def moved(self, state: str | None) -> None:
        """Called at least once a second while the step runs; None: nothing new to tell."""
        self._state = state or self._state
        now = time.monotonic()
        if now - self._drawn < (REDRAW_SECONDS if self._live else QUIET_SECONDS):
            return
        self._drawn = now
        self._draw() if self._live else self.say(self._line())

    def end(self, verdict: str) -> None:
        """Close the step's line."""
        took = duration(time.monotonic() - self._began)
        self._erase()
        self.say(f"{self._title}: {verdict} ({took})")

    def abandon(self) -> None:
        """The step failed or was interrupted: leave the line to whoever says so."""
        self._erase()

    def say(self, text: str) -> None:
        """One whole line."""
        print(text, file=self._out, flush=True)

    def _line(self) -> str:
        elapsed = duration(time.monotonic() - self._began)
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
    """`Building CXX object a/b/c.cpp.o` as `c.cpp`."""
    return what.rsplit(" ", 1)[-1].rsplit("/", 1)[-1].removesuffix(".o")


def _name(match: re.Match[str]) -> str:
    return re.split(r"[=<>!~;\[]", match[2])[0].rsplit("/", 1)[-1]
