"""The routes of the prompt cache over real HTTP: who may see and delete what."""

from __future__ import annotations

import pytest

from tests.api.chat_helpers import BODY
from tests.api.conftest import Api


async def test_an_admin_sees_all_and_a_user_the_bytes_of_its_tenant(api: Api) -> None:
    async with api.client(api.admin_key) as admin, api.client() as user:
        everything = (await admin.get("/v1/cache")).json()
        own = (await user.get("/v1/cache")).json()

    assert everything["tenant"] is None
    assert everything["tiers"] == [
        {
            "name": "disk",
            "budget_bytes": 10_000_000_000,
            "bytes": 2_500_000,
            "entries": 7,
            "hits": 3,
            "stored": 9,
            "rejected": {"authentication": 1},
            "not_written": "no space",
            "saved_seconds": 79.5,
            "read_bytes": 1_500_000,
            "stored_bytes": 3_500_000,
        }
    ]
    assert own["tenant"].startswith("key_")
    assert set(own["tiers"][0]) == {"name", "budget_bytes", "bytes"}
    assert [call.tenant for call in api.engine.calls if call.HasField("tenant")] == [own["tenant"]]


async def test_a_user_deletes_what_is_its_own_and_nothing_else(api: Api) -> None:
    async with api.client() as user:
        own = await user.delete("/v1/cache")
        others = await user.delete("/v1/cache?tenant=admin")
        everyones = await user.delete("/v1/cache?all=true")

    assert own.json() == {"object": "cache", "deleted": True, "entries": 2, "bytes": 5_000_000}
    assert (others.status_code, everyones.status_code) == (403, 400)
    (call,) = api.engine.calls
    assert call.tenant.startswith("key_")


async def test_an_admin_names_whose_prompts_are_deleted(api: Api) -> None:
    async with api.client(api.admin_key) as admin:
        without_tenant = await admin.delete("/v1/cache")
        await admin.delete("/v1/cache?all=true&model=tiny&older_than=60")
        unknown = await admin.delete("/v1/cache?all=true&model=huge")

    assert (without_tenant.status_code, without_tenant.json()["error"]["param"]) == (400, "tenant")
    assert unknown.status_code == 404
    (call,) = api.engine.calls
    assert not call.HasField("tenant")
    assert (call.model, call.older_than_seconds) == ("tiny:latest", 60)


async def test_an_empty_name_is_no_tenant(api: Api) -> None:
    """A script whose variable is empty must not read that something was deleted."""
    async with api.client(api.admin_key) as admin:
        answers = [
            await admin.get("/v1/cache?tenant="),
            await admin.delete("/v1/cache?tenant="),
            await admin.post("/v1/cache/rotate?tenant="),
        ]

    assert [(a.status_code, a.json()["error"]["param"]) for a in answers] == [(400, "tenant")] * 3
    assert not api.engine.calls


async def test_only_an_admin_changes_keys(api: Api) -> None:
    async with api.client(api.admin_key) as admin, api.client() as user:
        refused = await user.post("/v1/cache/rotate")
        done = await admin.post("/v1/cache/rotate?tenant=user")

    assert refused.status_code == 403
    assert done.json() == {"object": "cache", "tenant": "user", "rotated": True}
    assert [call.tenant for call in api.engine.calls] == ["user"]


@pytest.mark.parametrize(
    "key", ["6b" * 32, "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="], ids=["hex", "base64"]
)
async def test_a_private_key_reaches_the_engine(api: Api, key: str) -> None:
    async with api.client() as client:
        response = await client.post(
            "/v1/chat/completions", json=BODY, headers={"X-Spindll-Cache-Key": key}
        )

    assert response.status_code == 200
    assert api.engine.submits[0].private_cache_key == b"k" * 32


@pytest.mark.parametrize("key", ["", "6b" * 31, "6b" * 33, "zz" * 32, "a2s=", "k" * 32])
async def test_a_private_key_of_another_length_is_refused(api: Api, key: str) -> None:
    async with api.client() as client:
        response = await client.post(
            "/v1/completions",
            json={"model": "tiny", "prompt": "hi"},
            headers={"X-Spindll-Cache-Key": key},
        )

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "X-Spindll-Cache-Key"
    assert not api.engine.submits
