"""POST /v1/rerank and /rerank over real HTTP, in the shapes of Jina, Cohere and TEI."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from services.shared.store.manifest import Capability
from tests.api.conftest import Api, make_description, make_manifest, put_model

DOCUMENTS = ["abc", "abcdef", "ab"]  # the scripted engine's scores are 0, 3 and -1


def sigmoid(score: float) -> float:
    return pytest.approx(1 / (1 + math.exp(-score)))  # type: ignore[return-value]


async def post(api: Api, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
    async with api.client() as client:
        return await client.post(path, json={"model": "tiny", "query": "q", **body})


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_documents_come_best_first_in_the_shape_of_jina_and_cohere(
    api: Api, path: str
) -> None:
    answer = (await post(api, path, documents=DOCUMENTS)).json()

    assert answer.pop("id").startswith("rank-")
    assert answer == {
        "model": "tiny",
        "results": [
            {"index": 1, "relevance_score": sigmoid(3)},
            {"index": 0, "relevance_score": sigmoid(0)},
            {"index": 2, "relevance_score": sigmoid(-1)},
        ],
        "usage": {"prompt_tokens": 21, "total_tokens": 21},
    }


async def test_the_best_documents_come_with_their_text_where_that_is_wanted(api: Api) -> None:
    documents = ["abc", {"text": "abcdef"}, "ab"]
    answer = await post(api, documents=documents, top_n=1, return_documents=True)

    assert answer.json()["results"] == [
        {"index": 1, "relevance_score": sigmoid(3), "document": {"text": "abcdef"}}
    ]


async def test_teis_shape_is_a_list_with_scores(api: Api) -> None:
    plain = (await post(api, "/rerank", texts=DOCUMENTS)).json()
    raw = (await post(api, "/rerank", texts=DOCUMENTS, raw_scores=True, return_text=True)).json()

    assert plain[0] == {"index": 1, "score": sigmoid(3)}
    assert raw == [
        {"index": 1, "score": 3.0, "text": "abcdef"},
        {"index": 0, "score": 0.0, "text": "abc"},
        {"index": 2, "score": -1.0, "text": "ab"},
    ]


async def test_scores_that_are_probabilities_stay_as_they_are(api: Api) -> None:
    api.engine.ranks_in_probabilities = True
    answer = await post(api, documents=["abc", "abcd"])

    assert [r["relevance_score"] for r in answer.json()["results"]] == [1.0, 0.0]


async def test_two_documents_whose_scores_are_both_one_keep_the_order_of_their_logits(
    api: Api,
) -> None:
    answer = (await post(api, documents=["a" * 100, "a" * 200])).json()["results"]

    assert [result["relevance_score"] for result in answer] == [1.0, 1.0]
    assert [result["index"] for result in answer] == [1, 0]


@pytest.mark.parametrize(
    ("body", "truncate"),
    [
        ({"documents": ["a"]}, True),
        ({"documents": ["a"], "truncate": False}, False),
        ({"texts": ["a"]}, False),
        ({"texts": ["a"], "truncate": True}, True),
    ],
    ids=["jina", "jina without", "tei", "tei with"],
)
async def test_long_documents_are_shortened_as_each_service_does(
    api: Api, body: dict[str, Any], truncate: bool
) -> None:
    await post(api, **body)

    assert api.engine.calls[0].truncate is truncate


async def test_the_only_model_that_ranks_needs_no_name(api: Api) -> None:
    without = await post(api, model=None, texts=["a"])
    ranker = make_description(capabilities=(Capability.RERANK,))
    put_model(api.data_dir / "models", make_manifest("ranker:latest", description=ranker))
    found = await post(api, model=None, texts=["a"])

    assert (without.status_code, without.json()["error"]["param"]) == (400, "model")
    assert found.status_code == 200
    assert api.engine.calls[0].model == "ranker:latest"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"documents": ["a"], "texts": ["a"]},
        {"documents": []},
        {"documents": ["a"] * 2049},
        {"documents": [{"title": "a"}]},
        {"documents": ["a"], "top_n": 0},
        {"documents": ["a"], "rank_fields": ["title"]},
        {"documents": ["a"], "max_tokens_per_doc": 5},
        {"texts": ["a"], "truncation_direction": "Left"},
        {"documents": ["a"], "query": ""},
    ],
    ids=["nothing", "both", "none", "many", "no text", "no results", "fields", "tokens", "left",
         "no query"],
)  # fmt: skip
async def test_what_cannot_be_ranked_is_a_400(api: Api, body: dict[str, Any]) -> None:
    answer = await post(api, **body)

    assert answer.status_code == 400
    assert not api.engine.calls


async def test_an_empty_query_is_named(api: Api) -> None:
    """The query of a body is no query of an address, whose name is not shown."""
    answer = await post(api, documents=["a"], query="")

    assert answer.json()["error"]["param"] == "query"
    assert answer.json()["error"]["message"].startswith("query: ")
