"""At most one runner's compute threads wait by spinning.

Threads of one step wait for each other many times a token. Spinning is fastest alone; but of two
models that compute at once on the same cores, both spinning, each token takes many times as long.
One spinner beside others that sleep shares with them (docs/decisions/006 has both costs). libgomp
reads the setting once, when a process starts: the first runner may spin, those that start while it
lives may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_VARIABLE = "GOMP_SPINCOUNT"  # how often a thread looks before it sleeps; 300 000 unless told
_SLEEPS_SOON = "1000"


class Spinning:
    """Who has the right. Event loop only."""

    def __init__(self) -> None:
        self._holder: object | None = None

    def environment(self, runner: object) -> Mapping[str, str]:
        """A new runner's environment: it has the right if nobody else does. The owner's own word counts."""
        inherited = dict(os.environ)
        if _VARIABLE in inherited:
            return inherited
        if self._holder is None:
            self._holder = runner
            return inherited
        return inherited | {_VARIABLE: _SLEEPS_SOON}

    def ended(self, runner: object) -> None:
        """The runner is gone, or never came to be."""
        if self._holder is runner:
            self._holder = None
