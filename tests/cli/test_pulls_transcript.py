"""The session in docs/guide/cli.md is what the commands print.

Its commands run against the real routes and a real puller, with a registry on loopback. Ids are the
page's own, so they are compared by the order in which they appear; lines are broken as the page
needs it, so words are compared.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from services.cli.app import app
from services.puller.build import build_job_runner
from services.puller.job_runner import JobRunner
from services.puller.settings import PullerSettings
from services.shared.pulls.job import JobState, PullJob
from services.shared.pulls.job_store import JobStore
from tests.api.conftest import running_api
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.scripted_engine import ScriptedEngine
from tests.repository.documents import DOCS
from tests.waiting import until

_ID = re.compile(r"\b[0-9a-f]{8}(?:[0-9a-f]{24})?\b")
_STALLING = "big-model:8b"
_STALL_AT = 500_000


def read_session() -> list[tuple[str, str]]:
    """The commands of the page, each with the lines that it prints."""
    lines = (DOCS / "guide" / "cli.md").read_text().splitlines()
    begun = dropwhile(lambda line: not line.startswith("    $ "), lines)
    block = takewhile(lambda line: not line or line.startswith("    "), begun)
    text = "\n".join(line.removeprefix("    ") for line in block)
    parts = [part.partition("\n") for part in text.split("$ ./spindll ")[1:]]
    return [(command, output) for command, _, output in parts]


@dataclass
class Puller:
    """Runs every job that is due, as worker processes would."""

    settings: PullerSettings
    client: redis.Redis
    _running: list[tuple[JobRunner, threading.Thread]] = field(default_factory=list)

    @property
    def jobs(self) -> list[PullJob]:
        return JobStore(self.client).find()

    def settle(self) -> None:
        """Run the jobs that are due until each has ended, waits, or receives nothing more."""
        for job in self.jobs:
            if job.state is JobState.QUEUED and job.not_before is None:
                runner = build_job_runner(self.settings, self.client)
                thread = threading.Thread(target=runner.run, args=(job.id, job.ticket))
                thread.start()
                self._running.append((runner, thread))
        until(lambda: all(map(is_settled, self.jobs)), "a download does not settle")

    def close(self) -> None:
        for runner, thread in self._running:
            runner.request_stop()
            thread.join(30)


def is_settled(job: PullJob) -> bool:
    if job.state is JobState.RUNNING:
        has_stalled = job.model == _STALLING and job.ticket == 1  # 2: it was resumed
        return has_stalled and job.downloaded_bytes >= _STALL_AT and job.requested is None
    return job.state is not JobState.QUEUED or job.not_before is not None


@pytest.fixture
def registry() -> Iterator[Registry]:
    """One model stalls half-way, one is behind a quota, one arrives with a flipped byte."""
    with Registry() as server:
        big, busy, bad = (
            publish(server, name) for name in ("big-model", "busy-model", "bad-model")
        )
        server.plan.faults = [
            Fault(path_part=big, stall_at=_STALL_AT),
            Fault(path_part=busy, status=429, rate_limit='"api";r=0;t=287'),
            Fault(path_part=bad, flip_at=1 << 20, times=ALWAYS),
        ]
        yield server


def publish(registry: Registry, name: str) -> str:
    """Publish a model with bytes of its own, and return their digest."""
    weights = TINY_GGUF.read_bytes().replace(b"general.name", f"general.{name[:4]}".encode(), 1)
    registry.add_model(f"library/{name}:8b", {"model": weights})
    return sha256_digest(weights)


@pytest.fixture
async def puller(tmp_path: Path, redis_url: str, registry: Registry) -> AsyncIterator[Puller]:
    settings = PullerSettings(
        data_dir=tmp_path / "data",
        redis_url=redis_url,
        ollama_registry=registry.url,
        pull_reserve_bytes=0,
        pull_timeout_seconds=600.0,
    )
    with redis.Redis.from_url(redis_url) as client:
        puller = Puller(settings, client)
        yield puller
        await asyncio.to_thread(puller.close)


def read_words(text: str, known: list[str]) -> list[str]:
    """The words, with `job-1` for the first id that appeared, whole or shortened, and so on."""

    def number(match: re.Match[str]) -> str:
        short = match[0][:8]
        if short not in known:
            known.append(short)
        return f"job-{known.index(short) + 1}"

    # The worker may have paused before the command has its answer.
    return _ID.sub(number, text).replace("pausing", "paused").split()


async def test_the_commands_of_the_page_print_what_it_shows(
    tmp_path: Path, redis_url: str, puller: Puller
) -> None:
    shown_ids: list[str] = []
    real_ids: list[str] = []
    async with running_api(tmp_path, redis_url, ScriptedEngine({})) as api:
        environment = {"SPINDLL_URL": api.url, "SPINDLL_API_KEY": api.admin_key}
        for command, shown in read_session():
            arguments = [
                real_ids[shown_ids.index(word)] if word in shown_ids else word
                for word in command.split()
            ]
            done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
            printed = done.output if done.exception is None else str(done.exception)
            await asyncio.to_thread(puller.settle)

            assert read_words(printed, real_ids) == read_words(shown, shown_ids), command
    assert len(shown_ids) == 3
