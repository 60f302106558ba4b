"""docs/reference/openai.md has every field, as the code treats it; the code knows OpenAI's fields."""

from __future__ import annotations

import re

import pytest
from openai.types import EmbeddingCreateParams, completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from services.api.dialects.openai.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.completions_schema import CompletionRequest
from services.api.dialects.openai.embeddings_schema import (
    EmbeddingRequestBody,
    RerankRequestBody,
)
from services.api.dialects.openai.refused_fields import NO_EFFECT, list_refused
from services.api.request_body import RequestBody
from tests.repository.documents import DOCS

PAGE = (DOCS / "reference" / "openai.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (refused|no effect) \| (.+) \|$", PAGE, re.MULTILINE)
FIELDS = set(ChatCompletionRequest.model_fields) | set(CompletionRequest.model_fields)
ALL_FIELDS = FIELDS | set(EmbeddingRequestBody.model_fields)


def test_the_table_has_the_refused_fields_and_those_without_effect() -> None:
    refused = list_refused(ChatCompletionRequest) | list_refused(CompletionRequest)
    assert {name: why for name, kind, why in ROWS if kind == "refused"} == refused
    assert {name: why for name, kind, why in ROWS if kind == "no effect"} == NO_EFFECT
    assert len({name for name, _, _ in ROWS}) == len(ROWS)


def test_all_other_fields_of_the_bodies_are_listed_as_honoured() -> None:
    section = PAGE[PAGE.index("## Honoured") :].split("\n\n")[1]

    honoured = {
        name
        for body in (ChatCompletionRequest, CompletionRequest)
        for name in set(body.model_fields) - set(list_refused(body))
    }
    assert re.findall(r"`(\w+)`", section) == sorted(honoured)


@pytest.mark.parametrize(
    ("route", "body", "refused"),
    [
        ("/v1/embeddings", EmbeddingRequestBody, set()),
        (
            "/v1/rerank",
            RerankRequestBody,
            {"max_chunks_per_doc", "max_tokens_per_doc", "rank_fields"},
        ),
    ],
    ids=["embeddings", "rerank"],
)
def test_the_fields_of_embeddings_and_ranking_are_listed(
    route: str, body: type[RequestBody], refused: set[str]
) -> None:
    section = PAGE[PAGE.index(f"`POST {route}` honours") :]
    honoured, rest = section.split("\n\n")[0], section.split("\n## ")[0]

    assert re.findall(r"`(\w+)`", honoured) == sorted(set(body.model_fields) - refused)
    assert refused <= set(re.findall(r"`(\w+)`", rest))


@pytest.mark.parametrize(
    "body",
    [
        chat_create_params.CompletionCreateParamsBase,
        completion_create_params.CompletionCreateParamsBase,
        EmbeddingCreateParams,
    ],
    ids=["chat", "completion", "embeddings"],
)
def test_every_field_of_the_official_client_is_treated(body: type) -> None:
    assert set(body.__annotations__) - ALL_FIELDS - set(NO_EFFECT) == set()
