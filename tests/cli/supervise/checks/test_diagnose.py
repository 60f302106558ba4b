"""The reason for a failed start."""

from __future__ import annotations

import pytest

from services.cli.supervise.checks.diagnose import explain
from services.cli.supervise.state_machine import StartFailure


@pytest.mark.parametrize(
    ("failure", "lines", "expected"),
    [
        (StartFailure("redis", "ended", 1), ["# Errno 28: No space left on device"], "the redis cannot start: the disk is full"),
        (StartFailure("api", "ended", 1), ["OSError: [Errno 98] Address already in use"], "the api cannot start: another program has just taken a port"),
        (StartFailure("engine", "ended", 1), ["ModuleNotFoundError: No module named 'numpy'"], "a package is missing (numpy): run ./spindll setup"),
        (StartFailure("engine", "settings", 2), ["SPINDLL_THREADS: no", "x"], "the engine does not accept its settings: SPINDLL_THREADS: no"),
        (StartFailure("engine", "timeout"), [], "did not become ready in time"),
        (StartFailure("engine", "ended", -11), ["?"], "the engine ended during the start by signal 11"),
    ],
    ids=["disk", "port", "package", "settings", "timeout", "crash"],
)  # fmt: skip
def test_the_reason_for_a_failed_start(
    failure: StartFailure, lines: list[str], expected: str
) -> None:
    assert expected in explain(failure, lines)
