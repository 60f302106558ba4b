"""A puller with a real Redis, a real store and real servers on loopback."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from services.puller.build import build_job_runner
from services.puller.formats import engine_support
from services.puller.settings import PullerSettings
from services.puller.worker import build_worker
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.store.manifest import FileRole
from services.shared.store.model_store import ModelStore
from tests.conftest import TINY_GGUF
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.oci import Registry
from tests.fakes.registries.server import LoopbackServer


@dataclass
class PullTestbed:
    """A job store, a store of models, and a worker that runs in this process."""

    client: redis.Redis
    settings: PullerSettings
    job_store: JobStore
    commands: JobCommands
    job_queue: JobQueue
    store: ModelStore

    def submit(self, model: str, **fields: Any) -> PullJob:
        job, is_new = self.commands.create(new_job(model, **fields))
        if is_new:
            self.job_queue.send(job)
        return job

    def run_queue(self) -> None:
        """Run every job in the queue."""
        build_worker(self.client, build_job_runner(self.settings, self.client)).work(burst=True)

    def pull(self, model: str, **fields: Any) -> PullJob:
        job = self.submit(model, **fields)
        self.run_queue()
        return self.job_store.get(job.id)

    def age_temporary_files(self) -> None:
        """Make the store's temporary files an hour old, as if their writers had died long ago."""
        an_hour_ago = time.time() - 3601
        for path in self.store.layout.root.rglob("*.tmp"):
            os.utime(path, (an_hour_ago, an_hour_ago))

    def leftover_files(self) -> list[str]:
        """Files of the store that are neither blobs nor manifests."""
        root = self.store.layout.root
        return sorted(
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and (".partial" in path.name or path.suffix in (".tmp", ".lease"))
        )


@pytest.fixture
def make_testbed(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., PullTestbed]]:
    clients = []

    def make(**settings: Any) -> PullTestbed:
        client = redis.Redis.from_url(redis_url)
        clients.append(client)
        puller_settings = PullerSettings(
            **{
                "data_dir": tmp_path / "data",
                "redis_url": redis_url,
                "pull_reserve_bytes": 0,
                "pull_timeout_seconds": 2.0,
                **settings,
            }
        )
        job_store = JobStore(client)
        return PullTestbed(
            client,
            puller_settings,
            job_store,
            JobCommands(client, job_store),
            JobQueue(client),
            ModelStore(puller_settings.models_dir),
        )

    yield make
    for client in clients:
        client.close()


@pytest.fixture(autouse=True)
def _no_mlx_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra `mlx` were not installed, whether it is or not."""
    monkeypatch.setattr(engine_support, "LOADS_MLX", False)


@pytest.fixture
def mlx_engine(_no_mlx_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were an engine for MLX models."""
    monkeypatch.setattr(engine_support, "LOADS_MLX", True)


@pytest.fixture
def vision_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the engine read projectors."""
    monkeypatch.setattr(engine_support, "EXTRA_ROLES", frozenset({FileRole.PROJECTOR}))


@pytest.fixture
def cdn() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def registry(cdn: LoopbackServer) -> Iterator[Registry]:
    """A registry with the tiny model as `tiny:f16`; its blobs are on another host."""
    with Registry(cdn=cdn) as server:
        server.add_model(
            "library/tiny:f16",
            {
                "model": TINY_GGUF.read_bytes(),
                "template": b"{{ .Prompt }}",
                "system": b"You are brief.",
                "params": {"temperature": 0.5, "stop": ["<|im_end|>"]},
                "messages": [{"role": "user", "content": "hi"}],
                "license": b"Apache-2.0",
            },
        )
        yield server


@pytest.fixture
def hub(cdn: LoopbackServer) -> Iterator[Hub]:
    with Hub(cdn=cdn) as server:
        yield server


@pytest.fixture
def testbed(make_testbed: Callable[..., PullTestbed], registry: Registry, hub: Hub) -> PullTestbed:
    """A testbed whose puller uses the loopback servers."""
    return make_testbed(ollama_registry=registry.url, hf_endpoint=hub.url)
