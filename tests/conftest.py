"""Fixtures for all tests: a clean environment, and an empty Redis for the tests that use it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

ROOT = Path(__file__).resolve().parent.parent
# Optional test material beside a checkout; tests that need it are skipped when it is missing.
SHARED = ROOT.parent / "shared"
TINY_GGUF = ROOT / "tests" / "models" / "tiny" / "tiny-f16.gguf"

TINY_MLX = ROOT / "tests" / "models" / "tiny" / "mlx-f16"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SPINDLL_"):
            monkeypatch.delenv(name)


def redis_binary() -> str:
    """The path of a Redis server: from PATH, else the one in the development environment."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    for found_path in (Path(sys.prefix) / "embedded-redis").rglob("redis-server"):
        return str(found_path)
    raise RuntimeError("no redis-server: run `make setup`")


class RedisServer:
    """A Redis on a unix socket. `stop` ends it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._socket = directory / "redis.sock"
        self.url = f"unix://{self._socket}?db=0"
        self._command = [
            *(redis_binary(), "--port", "0", "--unixsocket", str(self._socket)),
            *("--dir", str(directory), "--save", "", "--appendonly", "no", *arguments),
        ]
        self.start()

    def start(self) -> None:
        """Start it; also again, after `kill`, from its append-only file if it has one."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self._socket))
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block, the server accepts connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait(10)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    # Not tmp_path: the path of a unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="spd-") as directory:
        server = RedisServer(Path(directory))
        yield server
        server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a real Redis, which is emptied for each test."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url


@pytest.fixture(scope="session")
def synthetic_model(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """A function from a preset of tests/models/shapes.py to its GGUF, made once per checkout.

    Those whose names begin with `tiny` are small; the rest is for benchmarks.
    """
    from tests.models import synthetic

    folder = request.config.cache.mkdir("models")
    return lambda preset: synthetic.make_cached(preset, folder)


@pytest.fixture(scope="session")
def pooling_model(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """A function from a name of tests/models/poolers.py to its GGUF, made once per checkout."""
    from tests.models import poolers

    folder = request.config.cache.mkdir("models")
    return lambda name: poolers.make_cached(name, folder)
