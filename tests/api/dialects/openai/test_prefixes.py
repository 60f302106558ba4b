"""The routes of named prefixes over real HTTP: what reaches the engine, and who may see what."""

from __future__ import annotations

from typing import Any

import pytest

from services.shared.errors import CacheShareExceeded, NotFound
from tests.api.conftest import Api

MESSAGES = [{"role": "system", "content": "You are a bot."}]
BODY: dict[str, Any] = {"name": "rules", "model": "tiny", "messages": MESSAGES}


async def test_messages_become_the_beginning_of_their_chat(api: Api) -> None:
    async with api.client() as user:
        response = await user.post("/v1/prefixes", json=BODY)
        await user.post("/v1/chat/completions", json={**BODY, "max_tokens": 1})

    assert response.status_code == 200
    tenant = response.json()["tenant"]
    assert response.json() == {
        "object": "prefix",
        "name": "rules",
        "tenant": tenant,
        "model": "tiny:latest",
        "created_at": 1_700_000_000,
        "prompt_tokens": 900,
        "stored_tokens": 768,
        "bytes": 2_500_000,
        "is_outdated": False,
    }
    (call,) = api.engine.calls
    assert tenant == call.tenant
    assert tenant.startswith("key_")
    prefix = "".join(piece.text for piece in call.text.pieces)
    chat = "".join(piece.text for piece in api.engine.submits[0].text.pieces)
    assert "You are a bot." in prefix
    assert chat.startswith(prefix)
    assert len(chat) > len(prefix)


@pytest.mark.parametrize("prompt", ["Once upon a time", [1, 2, 3]], ids=["text", "tokens"])
async def test_a_prompt_reaches_the_engine_as_it_is(api: Api, prompt: str | list[int]) -> None:
    body = {"name": "tale", "model": "tiny", "prompt": prompt}
    async with api.client() as user:
        response = await user.post("/v1/prefixes", json=body)

    assert response.status_code == 200
    (call,) = api.engine.calls
    if isinstance(prompt, str):
        assert (call.text.pieces[0].text, call.text.add_special) == (prompt, True)
    else:
        assert list(call.tokens.ids) == prompt


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"name": "../rules"}, "name"),
        ({"name": "rules\n"}, "name"),
        ({"name": "n" * 65}, "name"),
        ({"messages": None}, None),
        ({"prompt": "both"}, None),
        ({"messages": None, "prompt": []}, None),
        ({"messages": []}, "messages"),
    ],
    ids=["path", "line", "long name", "nothing", "both", "no tokens", "no messages"],
)
async def test_a_wrong_body_is_refused(
    api: Api, changes: dict[str, Any], param: str | None
) -> None:
    async with api.client() as user:
        response = await user.post("/v1/prefixes", json={**BODY, **changes})

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param
    assert not api.engine.calls


async def test_a_prefix_has_no_private_key(api: Api) -> None:
    async with api.client() as user:
        headers = {"X-Spindll-Cache-Key": "6b" * 32}
        response = await user.post("/v1/prefixes", json=BODY, headers=headers)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "X-Spindll-Cache-Key"
    assert not api.engine.calls


async def test_what_the_engine_refuses_has_its_own_code(api: Api) -> None:
    api.engine.unary_error = CacheShareExceeded("with this prefix, too much would be pinned")
    async with api.client() as user:
        response = await user.post("/v1/prefixes", json=BODY)

    assert (response.status_code, response.json()["error"]["code"]) == (409, "cache_share_exceeded")


async def test_a_user_sees_its_own_prefixes_and_an_admin_all(api: Api) -> None:
    async with api.client() as user, api.client(api.admin_key) as admin:
        own = (await user.get("/v1/prefixes")).json()
        others = await user.get("/v1/prefixes?tenant=bob")
        everyones = (await admin.get("/v1/prefixes")).json()
        bobs = (await admin.get("/v1/prefixes/rules?tenant=bob")).json()

    assert [prefix["tenant"] for prefix in own["data"]] == [api.engine.calls[0].tenant]
    assert others.status_code == 403
    assert own["object"] == "list"
    assert [prefix["tenant"] for prefix in everyones["data"]] == ["alice", "bob"]
    assert (bobs["name"], bobs["tenant"]) == ("rules", "bob")


async def test_a_prefix_of_another_tenant_is_not_found(api: Api) -> None:
    async with api.client() as user:
        own = await user.get("/v1/prefixes/rules")
        unknown = await user.get("/v1/prefixes/other")
        deleted = await user.delete("/v1/prefixes/rules")
        api.engine.unary_error = NotFound("there is no prefix 'other'")
        refused = await user.delete("/v1/prefixes/other")

    assert own.json()["name"] == "rules"
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert deleted.json() == {"object": "prefix", "name": "rules", "deleted": True}
    assert refused.status_code == 404
    deletion = api.engine.calls[2]
    assert (deletion.tenant, deletion.name) == (own.json()["tenant"], "rules")
