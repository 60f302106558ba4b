"""Every kind of model and memory, once per module."""

from __future__ import annotations

import pytest

from tests.contracts.kinds import KINDS


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
