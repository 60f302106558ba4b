"""Searches over real HTTP, answered by the puller's own listener over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from services.api.clients.search import run_search
from services.puller.build import build_search, build_update_check
from services.puller.search.listener import SearchListener
from services.puller.settings import PullerSettings
from services.shared.errors import EngineUnavailable, Unavailable
from services.shared.puller_rpc.search import SearchAnswer, SearchQuery
from services.shared.redis import redis_keys
from tests.api.conftest import Api
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.oci import Registry


@pytest.fixture
async def puller(redis_url: str) -> AsyncIterator[Hub]:
    """A running search listener of the puller, and the hub that it searches."""
    with Hub() as hub, Registry() as registry, redis.Redis.from_url(redis_url) as client:
        hub.token = "right"
        hub.add("owner/tiny-GGUF", {"t-Q4_K_M.gguf": b"x" * 40}, downloads=7, tags=("gguf",))
        hub.add("mine/tiny-own", {"t-Q8_0.gguf": b"x"}, private=True, tags=("gguf",))
        settings = PullerSettings(
            hf_endpoint=hub.url, hf_token="right", ollama_registry=registry.url
        )
        listener = SearchListener(
            client, build_search(settings), build_update_check(settings), seconds=2
        )
        listener.start()
        await wait_for_listeners(client)
        yield hub
        listener.stop()
        await wait_for_listeners(client, 0)


async def wait_for_listeners(client: redis.Redis, count: int = 1) -> None:
    async with asyncio.timeout(20):
        while client.pubsub_numsub(redis_keys.SEARCHES)[0][1] != count:
            await asyncio.sleep(0.01)


async def search(api: Api, key: str | None = None, **params: Any) -> httpx.Response:
    async with api.client(key) as client:
        return await client.get("/v1/search", params={"q": "tiny", **params})


@pytest.mark.usefixtures("puller")
async def test_a_hit_has_its_name_its_size_and_whether_it_fits(api: Api) -> None:
    answer = await search(api)

    assert answer.status_code == 200
    body = answer.json()
    assert body["data"] == [
        {
            "name": "owner/tiny-GGUF:Q4_K_M",
            "object": "search_hit",
            "source": "huggingface",
            "format": "gguf",
            "quantization": "q4_k_m",
            "quantizations": ["q4_k_m"],
            "size_bytes": 40,
            "estimated_memory_bytes": 40 + ((512 + 128 + 192) << 20),
            "fits": "no",  # the scripted engine has four bytes free
            "downloads": 7,
            "gated": False,
        }
    ]
    assert body["room_bytes"] == 4
    assert "has no search" in body["notes"][0]


@pytest.mark.usefixtures("puller")
async def test_private_repositories_are_shown_to_admins_only(api: Api) -> None:
    names = [hit["name"] for hit in (await search(api, api.admin_key)).json()["data"]]

    assert names == ["owner/tiny-GGUF:Q4_K_M", "mine/tiny-own:Q8_0"]


@pytest.mark.usefixtures("puller")
async def test_without_an_engine_it_is_unknown_what_fits(api: Api) -> None:
    api.engine.unary_error = EngineUnavailable("gone")
    body = (await search(api)).json()

    assert (body["data"][0]["fits"], body["room_bytes"]) == ("unknown", None)
    assert body["notes"][-1] == "the engine does not answer, so it is unknown what fits"


async def test_without_a_puller_a_search_is_503_at_once(api: Api) -> None:
    answer = await search(api)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (
        answer.json()["error"]["message"] == "no puller is running, and only the puller can search"
    )


async def test_a_puller_that_does_not_answer_in_time_is_503(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as subscriber:
        subscriber.subscribe(redis_keys.SEARCHES)
        await wait_for_listeners(client)
        query = SearchQuery(id="q1", text="tiny", limit=1)

        with pytest.raises(Unavailable, match="did not answer in time"):
            await run_search(api.app.state.redis, query, seconds=-1)


async def test_a_search_whose_sources_do_not_answer_is_503(api: Api, puller: Hub) -> None:
    puller.stopping.set()
    puller._server.shutdown()
    puller._server.server_close()
    answer = await search(api)

    assert (answer.status_code, answer.json()["error"]["message"]) == (
        503,
        "the hub does not answer",
    )


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"q": ""}, "q"),
        ({"q": "  "}, "q"),
        ({"q": "a\0b"}, "q"),
        ({"q": "x" * 201}, "q"),
        ({"limit": 0}, "limit"),
        ({"limit": 51}, "limit"),
        ({"format": "onnx"}, "format"),
        ({"sort": "luck"}, "sort"),
    ],
    ids=str,
)
async def test_an_invalid_search_is_400_and_names_the_parameter(
    api: Api, params: dict[str, Any], param: str
) -> None:
    answer = await search(api, **params)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_search_needs_a_key(api: Api) -> None:
    assert (await search(api, "")).status_code == 401


@pytest.mark.usefixtures("puller")
async def test_one_of_several_pullers_answers_and_leaves_no_keys_in_redis(
    api: Api, redis_url: str, tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        nowhere = PullerSettings(allowed_sources="nowhere")
        second = SearchListener(client, build_search(nowhere), build_update_check(nowhere))
        second.start()
        await wait_for_listeners(client, 2)
        answers = await asyncio.gather(*(search(api) for _ in range(6)))
        second.stop()
        await wait_for_listeners(client, 1)

        assert {answer.status_code for answer in answers} == {200}
        assert client.keys(redis_keys.search_answer("*")) == []
        assert all(0 < int(client.ttl(k)) <= 60 for k in client.keys(redis_keys.search_claim("*")))


@pytest.mark.usefixtures("puller")
async def test_an_invalid_query_does_not_end_the_listener(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.publish(redis_keys.SEARCHES, b"{")

    assert (await search(api)).status_code == 200


async def test_an_unexpected_error_in_a_search_is_reported_without_its_message(
    redis_url: str,
) -> None:
    class Broken:
        def answer(self, question: SearchQuery, *, seconds: float) -> SearchAnswer:
            raise RuntimeError("secret")

    with redis.Redis.from_url(redis_url) as client:
        listener = SearchListener(client, Broken(), Broken())  # type: ignore[arg-type]
        listener.start()
        await wait_for_listeners(client)
        query = SearchQuery(id="q2", text="tiny", limit=1)
        client.publish(redis_keys.SEARCHES, msgspec.json.encode(query))
        reply = await asyncio.to_thread(client.blpop, [redis_keys.search_answer("q2")], 4)
        listener.stop()
        await wait_for_listeners(client, 0)

    assert reply is not None
    answer = msgspec.json.decode(reply[1], type=SearchAnswer)
    assert answer.failed == "the search failed for an internal reason"
