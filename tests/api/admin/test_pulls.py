"""Pull jobs over real HTTP: start, watch, pause, resume, cancel, retry, delete."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis

from services.shared.pulls.job import FileProgress, JobState
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore
from tests.api.conftest import Api


class Puller:
    """Plays the worker that runs the jobs."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.store = JobStore(self.client)
        self.queue = JobQueue(self.client)

    def claim(self, job_id: str) -> None:
        ticket = self.store.get(job_id).ticket
        assert self.store.claim(job_id, ticket, "worker") is not None

    def queued(self) -> list[str]:
        return [ticket.rpartition("-")[0] for ticket in self.queue.queue.job_ids]


@pytest.fixture
def puller(redis_url: str) -> Any:
    puller = Puller(redis_url)
    yield puller
    puller.client.close()


@pytest.fixture
async def admin(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=api.url, headers={"authorization": f"Bearer {api.admin_key}"}
    ) as client:
        yield client


async def start_pull(
    admin: httpx.AsyncClient, model: str = "qwen3:0.6b", **fields: Any
) -> dict[str, Any]:
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


async def test_a_pull_of_a_model_that_is_being_pulled_returns_the_same_job(
    admin: httpx.AsyncClient,
) -> None:
    first = await start_pull(admin, "qwen3:latest")

    assert (await start_pull(admin, "qwen3"))["id"] == first["id"]
    assert (await start_pull(admin, "qwen3", format="gguf"))["id"] != first["id"]


async def test_an_idempotency_key_finds_its_job_even_after_it_has_ended(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    headers = {"idempotency-key": "abc"}
    first = (await admin.post("/v1/pulls", json={"model": "qwen3"}, headers=headers)).json()
    puller.claim(first["id"])
    puller.store.end(puller.store.get(first["id"]), JobState.DONE)

    again = await admin.post("/v1/pulls", json={"model": "qwen3"}, headers=headers)
    other = await admin.post("/v1/pulls", json={"model": "llama3"}, headers=headers)

    assert again.json()["id"] == first["id"]
    assert other.status_code == 409
    assert (await start_pull(admin, "qwen3"))["id"] != first["id"]


INVALID_BODIES = {
    "no model": {},
    "an empty name": {"model": ""},
    "a path trick": {"model": "../../etc/passwd"},
    "a NUL": {"model": "a\0b"},
    "look-alikes": {"model": "qw\u0435n3"},  # a Cyrillic letter
    "300 letters": {"model": "a" * 300},
    "a priority that is a text": {"model": "a", "priority": "high"},
    "an unknown format": {"model": "a", "format": "onnx"},
    "half a digest": {"model": "a", "sha256": "abc"},
}


@pytest.mark.parametrize("body", INVALID_BODIES.values(), ids=INVALID_BODIES.keys())
async def test_an_invalid_pull_request_is_400(
    admin: httpx.AsyncClient, puller: Puller, body: dict[str, Any]
) -> None:
    answer = await admin.post("/v1/pulls", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert puller.queued() == []


async def test_only_the_admin_key_may_change_jobs_and_models(
    api: Api, admin: httpx.AsyncClient
) -> None:
    job = await start_pull(admin)
    async with httpx.AsyncClient(base_url=api.url, headers={"x-api-key": api.user_key}) as user:
        assert (await user.post("/v1/pulls", json={"model": "a"})).status_code == 403
        assert (await user.post(f"/v1/pulls/{job['id']}/cancel")).status_code == 403
        assert (await user.delete("/v1/models/a")).status_code == 403
        assert (await user.get(f"/v1/pulls/{job['id']}")).status_code == 200


async def test_a_queued_job_pauses_resumes_and_is_cancelled_at_once(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    path = f"/v1/pulls/{(await start_pull(admin))['id']}"

    assert (await admin.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await admin.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await admin.post(f"{path}/resume")).json()["state"] == "queued"
    assert (await admin.post(f"{path}/cancel")).json()["state"] == "cancelled"
    assert (await admin.post(f"{path}/pause")).status_code == 409
    assert (await admin.post(f"{path}/resume")).status_code == 409
    assert (await admin.post(f"{path}/retry")).json()["state"] == "queued"
    assert (await admin.post(f"{path}/retry")).status_code == 409


async def test_a_pause_or_cancel_of_a_running_job_is_recorded_for_its_worker(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    job = await start_pull(admin)
    puller.claim(job["id"])
    path = f"/v1/pulls/{job['id']}"

    assert (await admin.post(f"{path}/pause")).json()["requested"] == "pause"
    assert (await admin.post(f"{path}/resume")).json()["requested"] is None
    assert (await admin.post(f"{path}/cancel")).json()["requested"] == "cancel"


async def test_a_retry_is_refused_while_another_job_pulls_the_model(
    admin: httpx.AsyncClient,
) -> None:
    first = await start_pull(admin)
    await admin.post(f"/v1/pulls/{first['id']}/cancel")
    second = await start_pull(admin)

    assert second["id"] != first["id"]
    assert (await admin.post(f"/v1/pulls/{first['id']}/retry")).status_code == 409


async def test_jobs_queue_by_priority_then_age(admin: httpx.AsyncClient, puller: Puller) -> None:
    low = await start_pull(admin, "low", priority=-5)
    first = await start_pull(admin, "first")
    second = await start_pull(admin, "second")
    high = await start_pull(admin, "high", priority=5)

    assert puller.queued() == [job["id"] for job in (high, first, second, low)]

    await admin.post(f"/v1/pulls/{low['id']}/priority", json={"priority": 1})
    assert puller.queued() == [job["id"] for job in (high, low, first, second)]


async def test_the_list_filters_by_state_and_model(admin: httpx.AsyncClient) -> None:
    one, two = await start_pull(admin, "one"), await start_pull(admin, "two")
    await admin.post(f"/v1/pulls/{one['id']}/pause")

    async def ids(query: str) -> list[str]:
        listed = await admin.get(f"/v1/pulls?{query}")
        return [job["id"] for job in listed.json()["data"]]

    assert await ids("state=paused") == [one["id"]]
    assert await ids("state=paused&state=queued") == [two["id"], one["id"]]
    assert await ids("model=two") == [two["id"]]
    assert await ids("limit=1") == [two["id"]]
    assert (await admin.get("/v1/pulls?state=odd")).status_code == 400


async def test_events_report_each_change_until_the_job_has_ended(
    admin: httpx.AsyncClient, puller: Puller
) -> None:
    job_id = (await start_pull(admin))["id"]
    seen = []
    async with admin.stream("GET", f"/v1/pulls/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            job = json.loads(line.removeprefix("data: "))
            seen.append((job["state"], job["downloaded_bytes"]))
            if job["state"] == "queued":
                puller.claim(job_id)
                file = FileProgress(path="m", digest=None, downloaded_bytes=5, total_bytes=9)
                fields = {"downloaded_bytes": 5, "total_bytes": 9, "files": (file,)}
                puller.store.report(job_id, "worker", fields)
            elif job["state"] == "running":
                puller.store.end(puller.store.get(job_id), JobState.DONE, downloaded_bytes=9)

    assert seen == [("queued", 0), ("running", 5), ("done", 9)]


async def test_an_unknown_job_is_404_on_every_route(admin: httpx.AsyncClient) -> None:
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


async def test_deleting_failed_jobs_frees_their_bytes(
    api: Api, admin: httpx.AsyncClient, puller: Puller
) -> None:
    digest = f"sha256:{'a' * 64}"
    partial = ModelStore(api.data_dir / "models").blobs.partial_path(digest)
    partial.write_bytes(bytes(1 << 16))
    job = puller.store.get((await start_pull(admin))["id"])
    progress = FileProgress(path="m.gguf", digest=digest, downloaded_bytes=9, total_bytes=99)
    puller.claim(job.id)
    puller.store.end(job, JobState.FAILED, files=(progress,))
    other = await start_pull(admin, "llama3.2:1b")

    refused = await admin.delete("/v1/pulls", params={"state": ["failed", "queued"]})
    answer = await admin.delete("/v1/pulls", params={"state": "failed"})

    assert refused.status_code == 400
    assert answer.json() == {"object": "list", "deleted": 1, "freed_bytes": 1 << 16}
    assert not partial.exists()
    assert [j["id"] for j in (await admin.get("/v1/pulls")).json()["data"]] == [other["id"]]


async def test_the_first_delete_cancels_a_job_and_the_second_removes_it(
    admin: httpx.AsyncClient,
) -> None:
    path = f"/v1/pulls/{(await start_pull(admin))['id']}"

    assert (await admin.delete(path)).json()["state"] == "cancelled"
    assert (await admin.delete(path)).json()["deleted"] is True
    assert (await admin.get(path)).status_code == 404


async def test_the_query_of_an_address_is_kept_in_the_job_and_shown_to_nobody(
    admin: httpx.AsyncClient, puller: Puller, caplog: pytest.LogCaptureFixture
) -> None:
    address = "https://files.example/m.gguf?X-Amz-Signature=SECRET"
    with caplog.at_level(logging.DEBUG):
        job = await start_pull(admin, address)
        listed = await admin.get("/v1/pulls", params={"model": address})

    assert job["model"] == "https://files.example/m.gguf"
    assert [found["id"] for found in listed.json()["data"]] == [job["id"]]
    assert puller.store.get(job["id"]).address == address
    assert "SECRET" not in json.dumps(job) + listed.text
    ours = [record for record in caplog.records if record.name.startswith("services")]
    assert "SECRET" not in str([vars(record) for record in ours])
