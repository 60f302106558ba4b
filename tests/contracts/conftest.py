"""Every kind of model and memory, once per module; those of MLX for batchers only."""

from __future__ import annotations

import pytest

from tests.contracts.kinds import BATCHER_KINDS, KINDS
from tests.engine.backends.mlx.mlx_tests import skip_without_mlx


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        is_of_backends = metafunc.module.__name__.rpartition(".")[2].startswith("test_backend")
        kinds = KINDS if is_of_backends else BATCHER_KINDS
        metafunc.parametrize("kind", list(kinds), indirect=True, scope="module")


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    kind = str(request.param)
    if "mlx" in kind:
        skip_without_mlx()
    return kind
