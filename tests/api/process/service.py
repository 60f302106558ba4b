"""The api as it runs in production: one process of `python -m services.api`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.api.conftest import make_manifest, put_model
from tests.fakes.scripted_engine import ScriptedEngine
from tests.waiting import free_port

ROOT = Path(__file__).resolve().parents[3]
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


class Service:
    """One process of `python -m services.api`."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self.log = data_dir / "api.log"
        data_dir.mkdir(parents=True, exist_ok=True)
        given = {
            "data_dir": data_dir,
            "api_port": self.port,
            "grpc_port": self.grpc_port,
            "api_workers": 2,
            "log_format": "json",
            "drain_seconds": 5,
            **settings,
        }
        environment = {f"SPINDLL_{name.upper()}": str(value) for name, value in given.items()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.api"],
                env={**os.environ, **environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    @property
    def headers(self) -> dict[str, str]:
        return {"x-api-key": (self.data_dir / "secrets" / "user.key").read_text().strip()}

    def peak_bytes(self) -> int:
        """The largest memory that a worker has taken so far."""
        peaks = []
        for worker in self.workers():
            status = Path(f"/proc/{worker.pid}/status").read_text()
            peaks.append(1024 * int(status.split("VmHWM:")[1].split()[0]))
        return max(peaks)

    async def start_client(self, script: str, *arguments: str) -> asyncio.subprocess.Process:
        """A client of this service in a process of its own, with its stdout in a pipe."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )

    def freeze(self, client: asyncio.subprocess.Process) -> None:
        """Stop a client without closing its connections; `kill` ends it."""
        client.send_signal(signal.SIGSTOP)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    async def wait_ready(self) -> None:
        await until(self._is_ready, self.log.read_text)

    async def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.url}/ready")).status_code == 200
        except httpx.HTTPError:
            return False


async def until(condition: Callable[[], Any], describe: Callable[[], str] = str) -> None:
    """Poll until the awaited condition is true; `describe` is the message of a failure."""
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline, describe()
        await asyncio.sleep(0.05)


@contextmanager
def running(data_dir: Path, **settings: Any) -> Iterator[Service]:
    service = Service(data_dir, **settings)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.terminate()
            try:
                service.process.wait(20)
            except subprocess.TimeoutExpired:
                for child in service.workers():
                    child.kill()
                service.process.kill()
                raise


@asynccontextmanager
async def running_with_model(
    data_dir: Path, redis_url: str, engine: ScriptedEngine, **settings: Any
) -> AsyncIterator[Service]:
    """A service that serves the model `tiny`, once it is ready."""
    put_model(data_dir / "models", make_manifest())
    with running(
        data_dir, redis_url=redis_url, engine_address=engine.address, **settings
    ) as service:
        await service.wait_ready()
        yield service
