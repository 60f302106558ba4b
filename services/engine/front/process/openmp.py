"""How the compute threads of runners wait for each other: at most one runner spins.

The threads of one step wait for each other many times for each token. Spinning is the fastest way
to wait for a runner that is alone. When two runners compute at once on the same cores and both
spin, each token takes many times as long. One spinning runner beside others that sleep shares the
cores with them (bench/performance.md has both costs).

libgomp reads the setting once, when a process starts. So the first runner may spin, and those that
start while it lives may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_VARIABLE = (
    "GOMP_SPINCOUNT"  # how often a thread polls before it sleeps; libgomp's default: 300 000
)
_SLEEP_SOON = "1000"


class OpenMPWaitPolicy:
    """Knows which runner may spin. One for each launcher. Event loop only."""

    def __init__(self) -> None:
        self._spinning_runner: object | None = None

    def build_environment(self, runner: object, *, may_spin: bool = True) -> Mapping[str, str]:
        """The environment to start a runner with; it may spin if it computes and no other may.

        A value that the operator has set in the environment is kept.
        """
        inherited = dict(os.environ)
        if _VARIABLE in inherited:
            return inherited
        if self._spinning_runner is None and may_spin:
            self._spinning_runner = runner
            return inherited
        return inherited | {_VARIABLE: _SLEEP_SOON}

    def release(self, runner: object) -> None:
        """The runner has ended or was not started: another one may spin."""
        if self._spinning_runner is runner:
            self._spinning_runner = None
