"""One stack per test file. Its registry is on loopback, so no test uses the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.registries.oci import Registry
from tests.flows.stack import RunningStack


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def stack(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder: Path = tmp_path_factory.mktemp("stack")
    stack = RunningStack(
        folder / "data",
        SPINDLL_OLLAMA_REGISTRY=registry.url,
        SPINDLL_PULL_TIMEOUT_SECONDS="1",
    )
    started = stack.up()
    try:
        assert started.returncode == 0, started.stderr + stack.logs()
        yield stack
    finally:
        stack.down()
