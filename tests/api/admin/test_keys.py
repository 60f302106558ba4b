"""Creating, listing and revoking API keys over real HTTP and gRPC."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import redis.asyncio

from protos import spindll_pb2
from protos.spindll_pb2_grpc import SpindllStub
from services.api.access import key_manager
from services.api.access.keys import hash_key
from services.shared.redis import redis_keys
from services.shared.redis.redis_client import connect_async
from tests.api.chat_helpers import BODY
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine
from tests.waiting import free_port

CHAT = "/v1/chat/completions"


async def create(api: Api, **body: Any) -> dict[str, Any]:
    async with api.client(api.admin_key) as admin:
        answer = await admin.post("/v1/keys", json={"name": "team", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def read_status(api: Api, key: str) -> int:
    async with api.client(key) as client:
        return (await client.get("/v1/models")).status_code


async def wait_until_refused(api: Api, key: str) -> None:
    while await read_status(api, key) != 401:
        await asyncio.sleep(0.05)


async def test_a_created_key_is_valid_at_once_and_only_its_hash_is_kept(
    api: Api, redis_url: str
) -> None:
    made = await create(api, role="admin", tenant="blue", expires_in_seconds=60)
    async with api.client(made["key"]) as client:
        listed = (await client.get("/v1/keys")).json()["data"]
    connection = connect_async(redis_url)
    stored = await connection.hgetall(redis_keys.API_KEYS)
    await connection.aclose()

    text = made.pop("key")
    assert (made["role"], made["tenant"], made["name"]) == ("admin", "blue", "team")
    assert made["expires_at"] == pytest.approx(time.time() + 60, abs=30)
    assert [key["file"] for key in listed] == ["admin.key", "user.key", None]
    assert listed[-1] == {**made, "last_used_at": None, "file": None}
    assert list(stored) == [hash_key(text)]
    assert text not in str(stored)


async def test_a_revoked_key_ends_in_every_worker(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    async with (
        running_api(tmp_path, redis_url, engine, key_cache_seconds=3600) as first,
        running_api(tmp_path, redis_url, engine, key_cache_seconds=3600) as second,
    ):
        made = await create(first)
        assert [await read_status(api, made["key"]) for api in (first, second)] == [200, 200]
        async with first.client(first.admin_key) as admin:
            revoked = await admin.delete(f"/v1/keys/{made['id']}")
            again = await admin.delete(f"/v1/keys/{made['id']}")

        assert revoked.json() == {"id": made["id"], "object": "key", "deleted": True}
        assert again.status_code == 404
        for api in (first, second):
            await wait_until_refused(api, made["key"])


async def test_a_revoked_key_ends_for_a_grpc_channel_that_is_open(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    put_model(tmp_path / "data" / "models", make_manifest())
    port = free_port()
    async with (
        running_api(tmp_path, redis_url, engine, grpc_port=port) as api,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        made = await create(api)
        stub, metadata = SpindllStub(channel), (("x-api-key", made["key"]),)
        await stub.List(spindll_pb2.ListRequest(), metadata=metadata, timeout=20)
        async with api.client(api.admin_key) as admin:
            await admin.delete(f"/v1/keys/{made['id']}")
        await wait_until_refused(api, made["key"])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.List(spindll_pb2.ListRequest(), metadata=metadata, timeout=20)

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_keys_of_one_tenant_share_it_and_others_do_not(api: Api) -> None:
    alice, bob, carol = await asyncio.gather(
        create(api, tenant="blue"), create(api, tenant="blue"), create(api)
    )
    for made in (alice, bob, carol):
        async with api.client(made["key"]) as client:
            assert (await client.post(CHAT, json=BODY)).status_code == 200

    *_, own = api.engine.submits
    assert [submit.tenant for submit in api.engine.submits] == ["blue", "blue", own.principal]
    assert len({submit.principal for submit in api.engine.submits}) == 3


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_only_an_admin_manages_keys(api: Api, method: str) -> None:
    path = "/v1/keys/key_0" if method == "DELETE" else "/v1/keys"
    statuses = []
    for key in (api.user_key, ""):
        async with api.client(key) as client:
            statuses.append((await client.request(method, path, json={})).status_code)

    assert statuses == [403, 401]


async def test_the_key_of_a_file_is_not_revoked(api: Api) -> None:
    async with api.client(api.admin_key) as admin:
        keys = (await admin.get("/v1/keys")).json()["data"]
        answers = [await admin.delete(f"/v1/keys/{key['id']}") for key in keys]

    assert [answer.status_code for answer in answers] == [409, 409]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "x", "role": "boss"}, "role"),
        ({"name": "x", "tenant": "a b"}, "tenant"),
        ({"name": "x", "tenant": "key_0123456789ab"}, "tenant"),
        ({"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"name": "x", "expires_in_seconds": 1e300}, "expires_in_seconds"),
    ],
    ids=str,
)
async def test_an_invalid_field_is_400_and_named(
    api: Api, body: dict[str, Any], param: str
) -> None:
    async with api.client(api.admin_key) as admin:
        answer = await admin.post("/v1/keys", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_the_number_of_keys_is_bounded(api: Api, redis_url: str) -> None:
    connection: redis.asyncio.Redis = connect_async(redis_url)
    for number in range(key_manager.MAX_KEYS):
        await connection.hset(redis_keys.API_KEYS, str(number), "{}")
    await connection.aclose()
    async with api.client(api.admin_key) as admin:
        answer = await admin.post("/v1/keys", json={"name": "x"})

    assert answer.status_code == 409


async def test_without_redis_keys_cannot_be_managed(tmp_path: Path, engine: ScriptedEngine) -> None:
    async with (
        running_api(tmp_path, "unix:///nowhere/redis.sock", engine) as api,
        api.client(api.admin_key) as admin,
    ):
        answers = [
            await admin.get("/v1/keys"),
            await admin.post("/v1/keys", json={"name": "x"}),
            await admin.delete("/v1/keys/key_0"),
        ]

    assert [answer.status_code for answer in answers] == [503, 503, 503]
