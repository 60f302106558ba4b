"""The `pulls` commands against the real routes: jobs that run, wait, are paused, have failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.commands import pull
from services.cli.commands.pull import state_line
from services.cli.commands.pulls import describe_state, find_job, format_row
from services.cli.errors import CommandError
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import FileProgress, JobState, PullJob
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.store.model_store import ModelStore
from tests.api.conftest import running_api
from tests.fakes.scripted_engine import ScriptedEngine

NOW = 1_000_000.0
JOB: dict[str, Any] = {
    "id": "a2410aadccee4bb1b2310ffc90879295",
    "model": "qwen3:0.6b",
    "state": "running",
    "downloaded_bytes": 250_000_000,
    "total_bytes": 1_000_000_000,
    "bytes_per_second": 12_500_000.0,
    "eta_seconds": 60.0,
    "note": None,
    "not_before": None,
    "error": None,
    "requested": None,
}
WAITING = {"state": "queued", "note": "the hub does not answer", "not_before": NOW + 42}
FAILED = {"state": "failed", "error": "the registry has no model 'qwen3:0.6b'"}
CELLS = {
    "running": ({}, ["running", "25% of 1.0 GB", "12.5 MB/s", "60 s", "-"]),
    "waiting": (
        WAITING,
        ["queued", "25% of 1.0 GB", "-", "-", "the hub does not answer; next attempt in 42 s"],
    ),
    "failed": (FAILED, ["failed", "25% of 1.0 GB", "-", "-", FAILED["error"]]),
    "new": ({"state": "queued", "total_bytes": None}, ["queued", "-", "-", "-", "-"]),
}


@pytest.mark.parametrize(("changes", "cells"), CELLS.values(), ids=CELLS.keys())
def test_a_job_is_listed_with_why_it_waits(changes: dict[str, Any], cells: list[str]) -> None:
    assert format_row(JOB | changes, now=NOW) == ["a2410aad", "qwen3:0.6b", *cells]


LINES = {
    "bytes arrive": ({}, None),
    "waiting": (WAITING, "queued: the hub does not answer; next attempt in 42 s"),
    "paused": ({"state": "paused"}, "paused; `pulls resume a2410aad` continues it"),
    "outside the hours": (
        {"note": "waiting for the allowed hours (22:00-07:00)"},
        "running: waiting for the allowed hours (22:00-07:00)",
    ),
    "behind others": ({"state": "queued"}, "queued; other downloads run first"),
}


@pytest.mark.parametrize(("changes", "line"), LINES.values(), ids=LINES.keys())
def test_pull_says_why_no_bytes_arrive(changes: dict[str, Any], line: str | None) -> None:
    assert state_line(JOB | changes, now=NOW) == line


def test_a_requested_stop_is_shown_until_it_happens() -> None:
    assert describe_state(JOB | {"requested": "pause"}, now=NOW) == "pausing"


def test_a_job_is_found_by_the_start_of_its_id_or_by_its_model() -> None:
    jobs = [
        JOB | {"id": "ab1", "model": "llama3.2:latest"},
        JOB | {"id": "ab2", "model": "owner/Repo:Q8_0"},
        JOB | {"id": "cd3", "model": "owner/Repo:Q8_0"},
    ]

    assert find_job(jobs, "cd")["id"] == "cd3"
    assert find_job(jobs, "llama3.2")["id"] == "ab1"
    assert find_job(jobs, "owner/repo:q8_0")["id"] == "ab2"
    for text, words in (("ab", "several"), ("zz", "no download")):
        with pytest.raises(CommandError, match=words):
            find_job(jobs, text)


class Shell:
    """Runs commands against the real routes, and plays the puller."""

    def __init__(self, url: str, key: str, client: redis.Redis, models: Path) -> None:
        self._environment = {"SPINDLL_URL": url, "SPINDLL_API_KEY": key}
        self.store = JobStore(client)
        self.models = ModelStore(models)
        self._commands = JobCommands(client, self.store)

    async def run(self, *arguments: str) -> str:
        return await self.run_command("pulls", *arguments)

    async def run_command(self, *arguments: str) -> str:
        done = await asyncio.to_thread(
            CliRunner().invoke, app, list(arguments), env=self._environment
        )
        return done.output + (str(done.exception) if done.exception is not None else "")

    def add(self, model: str, state: JobState = JobState.QUEUED, **fields: Any) -> PullJob:
        job, _ = self._commands.create(new_job(model, **fields))
        if state.has_ended:
            self.store.end(job, state, expect={"state": JobState.QUEUED}, **fields)
        return self.store.get(job.id)


@pytest.fixture
async def shell(tmp_path: Path, redis_url: str) -> AsyncIterator[Shell]:
    client = redis.Redis.from_url(redis_url)
    async with running_api(tmp_path, redis_url, ScriptedEngine({})) as api:
        yield Shell(api.url, api.admin_key, client, tmp_path / "data" / "models")
    client.close()


async def test_a_download_is_paused_resumed_cancelled_and_retried(shell: Shell) -> None:
    job = shell.add("qwen3:0.6b")

    assert await shell.run("pause", job.id[:8]) == "qwen3:0.6b: paused\n"
    assert "paused" in await shell.run()
    assert await shell.run("resume", "qwen3:0.6b") == "qwen3:0.6b: queued\n"
    assert await shell.run("priority", "qwen3:0.6b", "7") == "qwen3:0.6b: priority 7\n"
    assert await shell.run("cancel", job.id) == "qwen3:0.6b: cancelled\n"
    assert "no downloads" in await shell.run()
    assert "cancelled" in await shell.run("--all")
    assert await shell.run("retry", job.id) == "qwen3:0.6b: queued\n"
    assert shell.store.get(job.id).priority == 7


async def test_failed_downloads_are_purged_with_their_bytes(shell: Shell) -> None:
    digest = f"sha256:{'a' * 64}"
    shell.models.blobs.partial_path(digest).write_bytes(bytes(1 << 16))
    progress = FileProgress(path="m", digest=digest, downloaded_bytes=1, total_bytes=2)
    failed = shell.add("a:1", JobState.FAILED, files=(progress,), error="the disk is full")
    waiting = shell.add("b:1")

    assert "the disk is full" in await shell.run()
    assert "cancel it first" in await shell.run("purge", waiting.id)
    assert await shell.run("purge") == "forgot 1 failed downloads, 65.5 kB freed\n"
    assert [job.id for job in shell.store.find()] == [waiting.id]
    assert failed.model not in await shell.run("--all")


async def test_pull_prints_why_it_waits_and_why_it_failed(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shell.add("qwen3:0.6b", note="the source does not answer")

    def fail(_: float) -> None:
        expect = {"state": JobState.QUEUED}
        shell.store.end(job, JobState.FAILED, expect=expect, error="the disk is full")

    # Between two looks of the command, its job fails.
    monkeypatch.setattr(pull, "time", SimpleNamespace(time=time.time, sleep=fail))

    output = await shell.run_command("pull", "qwen3:0.6b")

    assert "queued: the source does not answer" in output
    assert output.endswith("qwen3:0.6b: the disk is full")
