"""Every path but the public ones needs a key."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import Api, running_api
from tests.conftest import RedisServer
from tests.fakes.scripted_engine import ScriptedEngine


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/nowhere", "/"])
@pytest.mark.parametrize("key", ["", "sk-wrong"], ids=["no key", "wrong key"])
async def test_without_a_valid_key_every_path_is_401(api: Api, path: str, key: str) -> None:
    async with api.client(key) as client:
        answer = await client.get(path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_health_and_ready_need_no_key(api: Api) -> None:
    async with api.client("") as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200


async def test_the_x_api_key_header_is_accepted(api: Api) -> None:
    async with httpx.AsyncClient(headers={"x-api-key": api.user_key}) as client:
        assert (await client.get(f"{api.url}/v1/models")).status_code == 200


@pytest.mark.parametrize("call", ["load", "unload", "plan"])
async def test_the_user_key_may_not_load_or_unload_models(api: Api, call: str) -> None:
    async with api.client() as client:
        answer = await client.post(f"/v1/models/tiny/{call}", json={})

    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize(
    ("proxies", "client"), [("127.0.0.1", "203.0.113.9"), ("192.0.2.1", "127.0.0.1")], ids=str
)
async def test_a_wrong_key_is_logged_with_the_address_that_a_trusted_proxy_names(
    tmp_path: Path,
    redis_url: str,
    engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
    proxies: str,
    client: str,
) -> None:
    settings = {"forwarded_allow_ips": proxies}
    async with running_api(tmp_path, redis_url, engine, **settings) as api, api.client("") as http:
        with caplog.at_level(logging.INFO):
            headers = {"x-api-key": "sk-wrong", "x-forwarded-for": "10.9.9.9, 203.0.113.9"}
            await http.get("/v1/models", headers=headers)

    lines = [r.__dict__ for r in caplog.records if r.name.startswith("services.api")]
    assert [(line["msg"], line["client"]) for line in lines if "client" in line] == [
        ("API key refused", client)
    ]


async def test_a_flood_without_a_key_writes_few_lines(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="services"):
        async with api.client("") as client:
            for _ in range(200):
                await client.get("/v1/models")

    lines = [r.__dict__ for r in caplog.records if "client" in r.__dict__]
    assert {line["msg"] for line in lines} == {"request without an API key"}
    assert 10 <= len(lines) < 20


async def test_the_line_of_a_request_names_its_client(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="services"):
        async with api.client() as client:
            await client.get("/v1/models")

    [line] = [record.__dict__ for record in caplog.records if record.msg == "request"]
    assert (line["client"], line["status"]) == ("127.0.0.1", 200)


async def test_a_frozen_redis_takes_nothing_from_the_holder_of_a_file_key(
    api: Api, redis_server: RedisServer
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    with redis_server.frozen():
        async with api.client() as client:
            answer = await client.post("/v1/chat/completions", json=body, timeout=1)

    assert answer.status_code == 200
