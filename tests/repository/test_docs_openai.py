"""docs/reference/openai.md has every field, as the code treats it; the code knows OpenAI's fields."""

from __future__ import annotations

import re

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from services.api.dialects.openai.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.completions_schema import CompletionRequest
from services.api.dialects.openai.refused_fields import NO_EFFECT, list_refused
from tests.repository.documents import DOCS

PAGE = (DOCS / "reference" / "openai.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (refused|no effect) \| (.+) \|$", PAGE, re.MULTILINE)
FIELDS = set(ChatCompletionRequest.model_fields) | set(CompletionRequest.model_fields)


def test_the_table_has_the_refused_fields_and_those_without_effect() -> None:
    assert {name: why for name, kind, why in ROWS if kind == "refused"} == list_refused()
    assert {name: why for name, kind, why in ROWS if kind == "no effect"} == NO_EFFECT
    assert len({name for name, _, _ in ROWS}) == len(ROWS)


def test_all_other_fields_of_the_bodies_are_listed_as_honoured() -> None:
    section = PAGE[PAGE.index("## Honoured") :].split("\n\n")[1]

    assert re.findall(r"`(\w+)`", section) == sorted(FIELDS - set(list_refused()))


@pytest.mark.parametrize(
    "body",
    [
        chat_create_params.CompletionCreateParamsBase,
        completion_create_params.CompletionCreateParamsBase,
    ],
    ids=["chat", "completion"],
)
def test_every_field_of_the_official_client_is_treated(body: type) -> None:
    assert set(body.__annotations__) - FIELDS - set(NO_EFFECT) == set()
