"""The health check of the container, run as a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.engine.engine_server import running_front


def check(address: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "services.engine.health"],
        env=dict(os.environ, SPINDLL_ENGINE_ADDRESS=address),
        timeout=30,
    ).returncode


async def test_an_engine_that_serves_is_healthy_and_one_that_drains_is_not(
    tmp_path: Path,
) -> None:
    async with running_front(tmp_path) as front:
        before = await asyncio.to_thread(check, front.address)
        await front.engine.pool.drain(0)
        during = await asyncio.to_thread(check, front.address)

    assert (before, during) == (0, 1)
    assert await asyncio.to_thread(check, front.address) == 1


def test_the_check_imports_neither_backend_nor_numpy() -> None:
    code = (
        "import sys, services.engine.health;"
        "sys.exit(any(m in sys.modules for m in ('llama_cpp', 'numpy', 'llguidance', 'redis')))"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
