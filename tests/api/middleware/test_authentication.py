"""Every path but the public ones needs a key."""

from __future__ import annotations

import httpx
import pytest

from tests.api.conftest import Api


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
