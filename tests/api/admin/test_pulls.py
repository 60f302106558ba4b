"""Pull jobs over real HTTP: ask, watch, change one's mind; and deleting models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from services.shared.pulls.job import FileProgress, JobState
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from tests.api.conftest import Api, make_manifest, put_model


class Puller:
    """Plays the worker's part on the board."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.board = JobStore(self.client)
        self.tickets = JobQueue(self.client)

    def claim(self, job_id: str) -> None:
        ticket = self.board.get(job_id).ticket
        assert self.board.claim(job_id, ticket, "worker") is not None

    def queued(self) -> list[str]:
        return [ticket.rpartition("-")[0] for ticket in self.tickets.queue.job_ids]


@pytest.fixture
def puller(redis_url: str) -> Any:
    made = Puller(redis_url)
    yield made
    made.client.close()


@pytest.fixture
async def admin(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=api.url, headers={"authorization": f"Bearer {api.admin_key}"}
    ) as client:
        yield client


async def ask(admin: httpx.AsyncClient, model: str = "qwen3:0.6b", **fields: Any) -> dict[str, Any]:
    answer = await admin.post("/v1/pulls", json={"model": model, **fields})
    assert answer.status_code == 202
    job: dict[str, Any] = answer.json()
    return job


async def test_a_pull_is_accepted_as_a_queued_job(admin: httpx.AsyncClient, puller: Puller) -> None:
    answer = await admin.post("/v1/pulls", json={"model": "qwen3"})

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/pulls/{job['id']}"
    assert (job["model"], job["state"], job["downloaded_bytes"]) == ("qwen3:latest", "queued", 0)
    assert (job["total_bytes"], job["error"]) == (None, None)
    assert (await admin.get(f"/v1/pulls/{job['id']}")).json() == job
    assert (await admin.get("/v1/pulls")).json()["data"] == [job]
    assert puller.queued() == [job["id"]]


async def test_the_same_model_in_flight_is_the_same_job(admin: httpx.AsyncClient) -> None:
    first = await ask(admin, "qwen3:latest")

    assert (await ask(admin, "qwen3"))["id"] == first["id"]
    assert (await ask(admin, "qwen3", format="gguf"))["id"] != first["id"]


async def test_an_idempotency_key_finds_its_job_even_after_the_end(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    headers = {"idempotency-key": "abc"}
    first = (await admin.post("/v1/pulls", json={"model": "qwen3"}, headers=headers)).json()
    puller.claim(first["id"])
    puller.board.end(puller.board.get(first["id"]), JobState.DONE)

    again = await admin.post("/v1/pulls", json={"model": "qwen3"}, headers=headers)
    other = await admin.post("/v1/pulls", json={"model": "llama3"}, headers=headers)

    assert again.json()["id"] == first["id"]
    assert other.status_code == 409
    assert (await ask(admin, "qwen3"))["id"] != first["id"]


BAD = {
    "no model": {},
    "an empty name": {"model": ""},
    "a path trick": {"model": "../../etc/passwd"},
    "a NUL": {"model": "a\0b"},
    "look-alikes": {"model": "qw\u0435n3"},  # a Cyrillic letter
    "300 letters": {"model": "a" * 300},
    "a priority of words": {"model": "a", "priority": "high"},
    "an unknown format": {"model": "a", "format": "onnx"},
    "half a digest": {"model": "a", "sha256": "abc"},
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
async def test_a_bad_order_is_a_400(
    admin: httpx.AsyncClient, puller: Puller, body: dict[str, Any]
) -> None:
    answer = await admin.post("/v1/pulls", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert puller.queued() == []


async def test_only_the_admin_changes_things(api: Api, admin: httpx.AsyncClient) -> None:
    job = await ask(admin)
    async with httpx.AsyncClient(base_url=api.url, headers={"x-api-key": api.user_key}) as user:
        assert (await user.post("/v1/pulls", json={"model": "a"})).status_code == 403
        assert (await user.post(f"/v1/pulls/{job['id']}/cancel")).status_code == 403
        assert (await user.delete("/v1/models/a")).status_code == 403
        assert (await user.get(f"/v1/pulls/{job['id']}")).status_code == 200


async def test_a_queued_job_pauses_resumes_and_is_cancelled_at_once(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    path = f"/v1/pulls/{(await ask(admin))['id']}"

    assert (await admin.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await admin.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await admin.post(f"{path}/resume")).json()["state"] == "queued"
    assert (await admin.post(f"{path}/cancel")).json()["state"] == "cancelled"
    assert (await admin.post(f"{path}/pause")).status_code == 409
    assert (await admin.post(f"{path}/resume")).status_code == 409
    assert (await admin.post(f"{path}/retry")).json()["state"] == "queued"
    assert (await admin.post(f"{path}/retry")).status_code == 409


async def test_a_running_job_hears_what_is_wished(admin: httpx.AsyncClient, puller: Puller) -> None:
    job = await ask(admin)
    puller.claim(job["id"])
    path = f"/v1/pulls/{job['id']}"

    assert (await admin.post(f"{path}/pause")).json()["wish"] == "pause"
    assert (await admin.post(f"{path}/resume")).json()["wish"] is None
    assert (await admin.post(f"{path}/cancel")).json()["wish"] == "cancel"


async def test_a_retry_waits_for_nobody_else_fetching_the_model(
    admin: httpx.AsyncClient,
) -> None:
    first = await ask(admin)
    await admin.post(f"/v1/pulls/{first['id']}/cancel")
    second = await ask(admin)

    assert second["id"] != first["id"]
    assert (await admin.post(f"/v1/pulls/{first['id']}/retry")).status_code == 409


async def test_jobs_queue_by_priority_then_age(admin: httpx.AsyncClient, puller: Puller) -> None:
    low = await ask(admin, "low", priority=-5)
    first = await ask(admin, "first")
    second = await ask(admin, "second")
    high = await ask(admin, "high", priority=5)

    assert puller.queued() == [job["id"] for job in (high, first, second, low)]

    await admin.post(f"/v1/pulls/{low['id']}/priority", json={"priority": 1})
    assert puller.queued() == [job["id"] for job in (high, low, first, second)]


async def test_the_list_filters_by_state_and_model(admin: httpx.AsyncClient) -> None:
    one, two = await ask(admin, "one"), await ask(admin, "two")
    await admin.post(f"/v1/pulls/{one['id']}/pause")

    async def ids(query: str) -> list[str]:
        listed = await admin.get(f"/v1/pulls?{query}")
        return [job["id"] for job in listed.json()["data"]]

    assert await ids("state=paused") == [one["id"]]
    assert await ids("state=paused&state=queued") == [two["id"], one["id"]]
    assert await ids("model=two") == [two["id"]]
    assert await ids("limit=1") == [two["id"]]
    assert (await admin.get("/v1/pulls?state=odd")).status_code == 400


async def test_events_tell_each_change_until_the_end(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    job_id = (await ask(admin))["id"]
    told = []
    async with admin.stream("GET", f"/v1/pulls/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            job = json.loads(line.removeprefix("data: "))
            told.append((job["state"], job["downloaded_bytes"]))
            if job["state"] == "queued":
                puller.claim(job_id)
                file = FileProgress(path="m", digest=None, downloaded_bytes=5, total_bytes=9)
                fields = {"downloaded_bytes": 5, "total_bytes": 9, "files": (file,)}
                puller.board.report(job_id, "worker", fields)
            elif job["state"] == "running":
                puller.board.end(puller.board.get(job_id), JobState.DONE, downloaded_bytes=9)

    assert told == [("queued", 0), ("running", 5), ("done", 9)]


async def test_an_unknown_job_is_a_404_everywhere(admin: httpx.AsyncClient) -> None:
    for method, path in [
        ("GET", ""),
        ("GET", "/events"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ]:
        answer = await admin.request(method, f"/v1/pulls/nothing{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")


async def test_deleting_cancels_a_job_and_then_forgets_it(admin: httpx.AsyncClient) -> None:
    path = f"/v1/pulls/{(await ask(admin))['id']}"

    assert (await admin.delete(path)).json()["state"] == "cancelled"
    assert (await admin.delete(path)).json()["deleted"] is True
    assert (await admin.get(path)).status_code == 404


async def test_deleting_a_model_frees_its_bytes(api: Api, admin: httpx.AsyncClient) -> None:
    models_dir: Path = api.data_dir / "models"
    put_model(models_dir, make_manifest("owner/repo:Q4_K_M"))

    deleted = (await admin.delete("/v1/models/owner/repo:Q4_K_M")).json()

    assert deleted["id"] == "owner/repo:Q4_K_M"
    assert deleted["freed_bytes"] == len(b"weights of owner/repo:Q4_K_M")
    assert (await admin.delete("/v1/models/owner/repo:Q4_K_M")).status_code == 404
