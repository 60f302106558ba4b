"""docs/reference/openai.md has every endpoint and field, as the code treats it.

The code knows every field of the official client.
"""

from __future__ import annotations

import re

import pytest
from openai.types import EmbeddingCreateParams, completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from services.api.dialects.openai.schemas.refused_fields import NO_EFFECT
from services.api.request_body import RequestBody
from tests.repository.openai_table import COLUMNS, PAGE, build_table, find_table, list_routes

TEXT = PAGE.read_text()


def test_the_table_is_that_of_the_code() -> None:
    """If not, write it: python -m tests.repository.openai_table."""
    assert find_table(TEXT) == build_table()


def test_every_endpoint_is_listed_with_the_column_of_its_body() -> None:
    names: dict[type[RequestBody] | None, str] = {
        body: f"`{name}`" for name, body in COLUMNS.items()
    }
    found = dict(re.findall(r"^- `([A-Z]+ /\S*)`: (`\w+`|no fields)", TEXT, re.MULTILINE))

    assert found == {route: names.get(body, "no fields") for route, body in list_routes()}


def test_no_field_is_both_honoured_and_without_effect() -> None:
    for body in COLUMNS.values():
        assert not set(body.model_fields) & set(NO_EFFECT)


@pytest.mark.parametrize(
    ("column", "params"),
    [
        ("chat", chat_create_params.CompletionCreateParamsBase),
        ("completions", completion_create_params.CompletionCreateParamsBase),
        ("embeddings", EmbeddingCreateParams),
    ],
)
def test_every_field_of_the_official_client_is_treated(column: str, params: type) -> None:
    treated = set(COLUMNS[column].model_fields) | set(NO_EFFECT)

    assert set(params.__annotations__) - treated == set()
