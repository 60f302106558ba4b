"""A worker's parts around a real Redis, a real store and real servers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from services.puller.build import build_runner
from services.puller.settings import PullerSettings
from services.puller.worker import make_worker
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import PullJob
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.store.model_store import ModelStore
from tests.conftest import TINY_GGUF
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.oci import Registry
from tests.fakes.registries.server import LoopbackServer


@dataclass
class Desk:
    """What a person at the api sees, and a worker to do the work in this process."""

    client: redis.Redis
    settings: PullerSettings
    board: JobStore
    orders: JobCommands
    tickets: JobQueue
    store: ModelStore

    def order(self, model: str, **fields: Any) -> PullJob:
        job, is_new = self.orders.create(new_job(model, **fields))
        if is_new:
            self.tickets.send(job)
        return job

    def work(self) -> None:
        """Everything in the queue."""
        make_worker(self.client, build_runner(self.settings, self.client)).work(burst=True)

    def pull(self, model: str, **fields: Any) -> PullJob:
        job = self.order(model, **fields)
        self.work()
        return self.board.get(job.id)

    def an_hour_passes(self) -> None:
        """For the store's temporary files: what a killed writer left is old now."""
        then = time.time() - 3601
        for path in self.store.layout.root.rglob("*.tmp"):
            os.utime(path, (then, then))

    def leftovers(self) -> list[str]:
        """Files of the store that are neither blobs nor manifests."""
        root = self.store.layout.root
        return sorted(
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and (".partial" in path.name or path.suffix in (".tmp", ".lease"))
        )


@pytest.fixture
def make_desk(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    clients = []

    def make(**settings: Any) -> Desk:
        client = redis.Redis.from_url(redis_url)
        clients.append(client)
        chosen = PullerSettings(
            **{
                "data_dir": tmp_path / "data",
                "redis_url": redis_url,
                "pull_reserve_bytes": 0,
                "pull_timeout_seconds": 2.0,
                **settings,
            }
        )
        board = JobStore(client)
        store = ModelStore(chosen.models_dir)
        return Desk(client, chosen, board, JobCommands(client, board), JobQueue(client), store)

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def cdn() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def registry(cdn: LoopbackServer) -> Iterator[Registry]:
    """Offers the tiny model as `tiny:f16`, its blobs on another host."""
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
def desk(make_desk: Callable[..., Desk], registry: Registry, hub: Hub) -> Desk:
    """A desk whose puller knows the loopback servers."""
    return make_desk(ollama_registry=registry.url, hf_endpoint=hub.url)
