"""Checks for newer versions over real HTTP, from real pulls, by the puller's own listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from typer.testing import CliRunner

from services.cli.app import app
from services.puller.build import build_job_runner, build_search, build_update_check
from services.puller.search.listener import SearchListener
from services.puller.settings import PullerSettings
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.store.manifest import Manifest
from services.shared.store.model_store import ModelStore
from tests.api.admin.test_search import wait_for_listeners
from tests.api.conftest import Api, make_manifest, put_model
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.hub import COMMIT, Hub
from tests.fakes.registries.oci import Registry

NEW_COMMIT = "e" * 40
TINY_Q8 = TINY_GGUF.with_name("tiny-q8_0.gguf")
FILES = {"README.md": b"1", "system": b"Be brief.", "t-Q8_0.gguf": TINY_GGUF.read_bytes()}
HUB_MODEL = "owner/tiny:Q8_0"
REGISTRY_MODEL = "tiny:f16"


@dataclass
class Puller:
    """A puller whose worker runs when asked, and the sources that it reaches."""

    hub: Hub
    registry: Registry
    client: redis.Redis
    settings: PullerSettings

    def pull(self, model: str) -> Manifest:
        job, _ = JobCommands(self.client, JobStore(self.client)).create(new_job(model))
        self.work()
        assert JobStore(self.client).get(job.id).error is None
        return ModelStore(self.settings.models_dir).resolve(model)

    def work(self) -> None:
        """Run the queued jobs."""
        runner = build_job_runner(self.settings, self.client)
        for job in JobStore(self.client).list_in_flight():
            runner.run(job.id, job.ticket)


@pytest.fixture
async def puller(redis_url: str, tmp_path: Path) -> AsyncIterator[Puller]:
    with Hub() as hub, Registry() as registry, redis.Redis.from_url(redis_url) as client:
        hub.add("owner/tiny", dict(FILES))
        registry.add_model("library/tiny:f16", {"model": TINY_GGUF.read_bytes()})
        settings = PullerSettings(
            data_dir=tmp_path / "data",
            redis_url=redis_url,
            hf_endpoint=hub.url,
            ollama_registry=registry.url,
            pull_reserve_bytes=0,
        )
        listener = SearchListener(client, build_search(settings), build_update_check(settings))
        listener.start()
        await wait_for_listeners(client)
        yield Puller(hub, registry, client, settings)
        listener.stop()
        await wait_for_listeners(client, 0)


async def update(api: Api, model: str, **body: Any) -> httpx.Response:
    async with api.client(api.admin_key) as client:
        return await client.post(f"/v1/models/{model}/update", json=body)


async def test_a_model_whose_files_have_not_changed_is_up_to_date(api: Api, puller: Puller) -> None:
    for model in (HUB_MODEL, REGISTRY_MODEL):
        version = (await asyncio.to_thread(puller.pull, model)).version

        assert (await update(api, model)).json() == {
            "id": model,
            "object": "model.update",
            "newer": False,
            "version": version,
            "newest_version": version,
            "download_bytes": 0,
            "note": None,
            "pull": None,
        }


async def test_a_commit_that_changes_only_other_files_is_not_newer(
    api: Api, puller: Puller
) -> None:
    await asyncio.to_thread(puller.pull, HUB_MODEL)
    puller.hub.add("owner/tiny", {**FILES, "README.md": b"2"}, commit=NEW_COMMIT)

    answer = (await update(api, HUB_MODEL)).json()

    assert (answer["newer"], answer["version"], answer["newest_version"], answer["pull"]) == (
        False,
        COMMIT,
        NEW_COMMIT,
        None,
    )


CHANGES = {
    "weights": ({"t-Q8_0.gguf": TINY_Q8.read_bytes()}, TINY_Q8.stat().st_size),
    "a small file": ({"system": b"Be polite"}, 9),
    "a file more": ({"params": b"{}"}, 2),
}


@pytest.mark.parametrize(("files", "download_bytes"), CHANGES.values(), ids=CHANGES.keys())
async def test_changed_files_of_a_repository_are_a_newer_version(
    api: Api, puller: Puller, files: dict[str, bytes], download_bytes: int
) -> None:
    await asyncio.to_thread(puller.pull, HUB_MODEL)
    puller.hub.add("owner/tiny", {**FILES, **files}, commit=NEW_COMMIT)

    answer = (await update(api, HUB_MODEL, check_only=True)).json()

    assert (answer["newer"], answer["download_bytes"], answer["pull"]) == (
        True,
        download_bytes,
        None,
    )


async def test_a_newer_version_is_pulled_and_then_up_to_date(api: Api, puller: Puller) -> None:
    old = await asyncio.to_thread(puller.pull, REGISTRY_MODEL)
    puller.registry.add_model("library/tiny:f16", {"model": TINY_Q8.read_bytes()})

    queued = (await update(api, REGISTRY_MODEL)).json()
    await asyncio.to_thread(puller.work)
    again = (await update(api, REGISTRY_MODEL)).json()

    assert (queued["newer"], queued["download_bytes"]) == (True, TINY_Q8.stat().st_size)
    assert (queued["pull"]["model"], queued["pull"]["state"]) == (REGISTRY_MODEL, "queued")
    assert (again["newer"], again["pull"]) == (False, None)
    assert again["version"] == queued["newest_version"] != old.version


async def test_a_source_that_no_longer_has_the_model_says_so(api: Api, puller: Puller) -> None:
    await asyncio.to_thread(puller.pull, HUB_MODEL)
    del puller.hub.repositories["owner/tiny"]

    answer = await update(api, HUB_MODEL)

    assert answer.status_code == 200
    assert answer.json()["note"].startswith("the hub has no repository 'owner/tiny'")
    assert (answer.json()["newer"], answer.json()["newest_version"]) == (False, None)


async def test_a_source_that_does_not_answer_is_503(api: Api, puller: Puller) -> None:
    await asyncio.to_thread(puller.pull, HUB_MODEL)
    puller.hub.plan.faults = [Fault(status=503, times=ALWAYS)]

    answer = await update(api, HUB_MODEL)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_imports_and_copies_are_never_replaced_by_what_has_their_name(
    api: Api, puller: Puller
) -> None:
    await asyncio.to_thread(puller.pull, REGISTRY_MODEL)
    async with api.client(api.admin_key) as admin:
        await admin.post(f"/v1/models/{REGISTRY_MODEL}/copy", json={"target": "owner/tiny:Q8_0"})

    imported = await update(api, "tiny:latest")
    copied = await update(api, "owner/tiny:Q8_0")

    assert (imported.status_code, copied.status_code) == (409, 409)
    assert "is a copy of 'tiny:f16'" in copied.json()["error"]["message"]


async def test_only_an_admin_may_ask(api: Api) -> None:
    async with api.client() as user:
        assert (await user.post("/v1/models/tiny/update")).status_code == 403


async def test_without_a_puller_an_update_is_503_at_once(api: Api) -> None:
    pulled = make_manifest("pulled:latest", pulled_name="pulled:latest", version="sha256:1")
    put_model(api.data_dir / "models", pulled)

    answer = await update(api, "pulled")

    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == (
        "no puller is running, and only the puller can ask for newer versions"
    )


async def run_command(api: Api, *arguments: str) -> tuple[int, list[str]]:
    environment = {"SPINDLL_URL": api.url, "SPINDLL_API_KEY": api.admin_key}
    done = await asyncio.to_thread(CliRunner().invoke, app, ["update", *arguments], env=environment)
    return done.exit_code, done.output.splitlines()


async def test_the_command_reports_on_every_model_that_was_pulled(api: Api, puller: Puller) -> None:
    for model in (HUB_MODEL, REGISTRY_MODEL):
        await asyncio.to_thread(puller.pull, model)
    puller.hub.add("owner/tiny", {**FILES, "system": b"!"}, commit=NEW_COMMIT)
    newer = "owner/tiny:Q8_0: a newer version is there, 1 B to download"

    assert await run_command(api, "--all", "--check") == (0, [newer, "tiny:f16: up to date"])
    status, [line] = await run_command(api, HUB_MODEL)
    assert (status, line[: len(newer)]) == (0, newer)
    assert "; downloading (job " in line

    puller.registry.manifests.clear()
    status, lines = await run_command(api, "--all", "--check")
    assert (status, lines[1:]) == (1, ["tiny:f16: the registry has no model 'tiny:f16'"])
