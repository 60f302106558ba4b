"""Every error has an HTTP status, and all have the same shape."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.api.errors import (
    HTTP_STATUS,
    build_error_body,
    build_error_response,
    find_status,
    format_location,
)
from services.shared.errors import (
    DeadlineExceeded,
    EngineBusy,
    InternalError,
    ModelNotFound,
    SpindllError,
    every_error,
)
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_error_has_a_status(cls: type[SpindllError]) -> None:
    error = cls("reason")

    assert 400 <= find_status(error) < 600
    assert build_error_body(error)["error"]["message"] == "reason"
    assert build_error_response(error).status_code == find_status(error)


def test_the_table_contains_only_error_classes() -> None:
    assert set(HTTP_STATUS) <= set(every_error())


def test_details_are_members_of_the_error() -> None:
    error = ModelNotFound("no", details={"models": ["a"], "code": "forged"})

    assert build_error_body(error)["error"]["models"] == ["a"]
    assert build_error_body(error)["error"]["code"] == "model_not_found"


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    assert (
        build_error_response(EngineBusy("", retry_after_seconds=0.1)).headers["retry-after"] == "1"
    )


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (("messages", 0, "content"), "messages[0].content"),
        (("prompt", 1, "str"), "prompt[1]"),
        (("tool_choice", "literal['none']"), "tool_choice"),
        (("missing",), "missing"),
        (("messages", 0, "ChatMessage", "role"), "messages[0].role"),
        ((), ""),
    ],
    ids=str,
)
def test_locations_are_formatted_as_paths(location: tuple[int | str, ...], path: str) -> None:
    body = {"messages": [{"content": 1}], "prompt": ["a", 3], "tool_choice": "maybe"}

    assert format_location(location, body) == path


async def test_an_unknown_route_is_404_in_the_same_shape(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/nothing")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_route"


@pytest.mark.parametrize(
    ("path", "key", "status", "body"),
    [
        ("/api/chat", "", 401, {"error": "no API key: …"}),
        ("/api/nothing", None, 404, {"error": "there is no route /api/nothing"}),
        (
            "/v1/messages",
            None,
            404,
            {
                "type": "error",
                "error": {
                    "type": "not_found_error",
                    "message": "there is no route /v1/messages",
                },
            },
        ),
        (
            "/v1/messages/count_tokens",
            "sk-wrong",
            401,
            {
                "type": "error",
                "error": {
                    "type": "authentication_error",
                    "message": "this API key is not valid",
                },
            },
        ),
    ],
)
async def test_an_error_has_the_shape_of_the_dialect_to_which_the_path_belongs(
    api: Api, path: str, key: str | None, status: int, body: dict[str, object]
) -> None:
    async with api.client(key) as client:
        answer = await client.post(path)

    found = answer.json()
    if isinstance(found["error"], str):
        found["error"] = re.sub(r"(no API key: ).*", r"\1…", found["error"])
    assert (answer.status_code, found) == (status, body)
    assert answer.headers["content-length"] == str(len(answer.content))


async def test_a_wrong_method_is_405_in_the_same_shape(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/chat/completions")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_a_body_too_large_is_413_in_the_same_shape(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    async with (
        running_api(tmp_path, redis_url, engine, max_body_bytes=2048) as api,
        api.client() as client,
    ):
        announced = await client.post("/v1/chat/completions", content=b" " * 4096)
        chunked = await client.post("/v1/chat/completions", content=chunks())

    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


async def test_an_unexpected_error_is_answered_without_its_message(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("at /secret/path")

    monkeypatch.setattr(api.app.state.parts.catalog, "list", broken)
    async with api.client() as client:
        answer = await client.get("/v1/models")

    assert answer.status_code == 500
    assert answer.json() == build_error_body(InternalError("internal error"))
    assert "unexpected error" in caplog.messages


async def test_every_response_has_a_request_id_and_no_server_name(api: Api) -> None:
    async with api.client() as client:
        given = await client.get("/health", headers={"x-request-id": "mine-1"})
        odd = await client.get("/health", headers={"x-request-id": "a b\tc"})

    assert given.headers["x-request-id"] == "mine-1"
    assert odd.headers["x-request-id"].startswith("req_")
    assert "server" not in given.headers
    assert given.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in given.headers


async def test_the_deadline_of_a_request_is_not_retried_by_the_official_clients() -> None:
    assert build_error_response(DeadlineExceeded("slow")).headers["x-should-retry"] == "false"


async def test_the_preflight_of_the_official_javascript_client_succeeds(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    names = (
        "authorization,content-type,idempotency-key,x-stainless-arch,x-stainless-lang,"
        "x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
        "x-stainless-runtime-version,x-stainless-timeout"
    )
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": names,
        "origin": "https://a.example",
    }
    async with (
        running_api(tmp_path, redis_url, engine, cors_origins="https://a.example") as api,
        api.client("") as client,
    ):
        answer = await client.options("/v1/chat/completions", headers=preflight)

    assert answer.status_code == 200, answer.text


async def test_only_the_configured_origins_may_call_from_a_browser(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    put_model(tmp_path / "data" / "models", make_manifest())
    preflight = {"access-control-request-method": "POST", "origin": "https://a.example"}
    async with (
        running_api(tmp_path, redis_url, engine, cors_origins="https://a.example") as api,
        api.client("") as client,
    ):
        answer = await client.options("/v1/chat/completions", headers=preflight)
        other = await client.options(
            "/v1/chat/completions", headers={**preflight, "origin": "https://b.example"}
        )

    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in other.headers


async def test_the_log_has_the_route_and_the_principal_but_no_content(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with api.client() as client:
        await client.get("/v1/models/tiny?secret=yes")

    record = next(r for r in caplog.records if r.message == "request")
    fields = vars(record)
    assert (fields["method"], fields["route"], fields["status"]) == (
        "GET",
        "/v1/models/{name:path}",
        200,
    )
    assert fields["principal"].startswith("key_")
    assert "secret" not in str(fields)
