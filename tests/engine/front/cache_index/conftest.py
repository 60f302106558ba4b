"""A tier that holds ten entries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.front.cache_index.managed_tier import Tier


@pytest.fixture
async def tier(tmp_path: Path, redis_url: str) -> AsyncIterator[Tier]:
    tier = Tier(tmp_path / "kv", redis_url, entries=10, per_tenant=10)
    yield tier
    await tier.close()
