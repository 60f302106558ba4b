"""Fixtures of the runner's tests."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import pytest

from services.engine.messages import reports
from tests.engine.runner.child_runner import ChildRunner, config


@pytest.fixture(scope="session")
def shared_runner() -> Iterator[ChildRunner]:
    """A runner with the tiny model, for tests that do not change its settings."""
    with ChildRunner(config()) as runner:
        runner.wait_for_first(reports.Ready)
        yield runner


@pytest.fixture(scope="session")
def ids() -> Iterator[int]:
    """Request ids, unique while the shared runner lives."""
    return itertools.count(1)


@pytest.fixture
def short_switch_interval() -> Iterator[None]:
    """Let threads alternate so often that a race between them shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
