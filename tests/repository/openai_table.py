"""Generate the table of docs/reference/openai.md: `python -m tests.repository.openai_table`.

One row for each field of a request body of the OpenAI dialect, with what each endpoint does with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fastapi import APIRouter
from fastapi.routing import APIRoute
from openai.types import EmbeddingCreateParams

from services.api.dialects.openai import chat, completions, embeddings, models, rerank, tokens
from services.api.dialects.openai.schemas.chat_schema import ChatCompletionRequest
from services.api.dialects.openai.schemas.completions_schema import CompletionRequest
from services.api.dialects.openai.schemas.embeddings_schema import (
    EmbeddingRequestBody,
    RerankRequestBody,
)
from services.api.dialects.openai.schemas.refused_fields import NO_EFFECT, list_refused
from services.api.dialects.openai.schemas.tokens_schema import (
    DetokenizeRequestBody,
    TokenizeRequestBody,
)
from services.api.request_body import OTHER_NAME, BodyParser, RequestBody
from tests.repository.documents import DOCS

PAGE = DOCS / "reference" / "openai.md"
ROUTERS: tuple[APIRouter, ...] = tuple(
    module.router for module in (chat, completions, embeddings, models, rerank, tokens)
)
COLUMNS: Mapping[str, type[RequestBody]] = {
    "chat": ChatCompletionRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequestBody,
    "rerank": RerankRequestBody,
    "tokenize": TokenizeRequestBody,
    "detokenize": DetokenizeRequestBody,
}
_TABLE = re.compile(r"^\| field \|.*\n(?:\|.*\n)*", re.MULTILINE)


def list_routes() -> Iterator[tuple[str, type[RequestBody] | None]]:
    """Each route of the dialect, as `METHOD /path`, and its body."""
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            found = [d.call.model for d in route.dependant.dependencies
                     if isinstance(d.call, BodyParser)]  # fmt: skip
            for method in route.methods or ():
                path = re.sub(r":[a-z]+}", "}", route.path)
                yield f"{method} {path}", found[0] if found else None


def build_table() -> str:
    """The table, as it is in the page."""
    columns = {name: _describe(body) for name, body in COLUMNS.items()}
    for name in ("chat", "completions"):
        columns[name] |= dict.fromkeys(NO_EFFECT, "no effect")
    own = EmbeddingCreateParams.__annotations__.keys() & NO_EFFECT.keys()
    columns["embeddings"] |= dict.fromkeys(own, "no effect")
    reasons = dict(_list_reasons())
    fields = sorted({field for column in columns.values() for field in column})
    rows = [
        [
            f"`{field}`",
            *(column.get(field, "") for column in columns.values()),
            reasons.get(field, ""),
        ]
        for field in fields
    ]
    lines = [["field", *COLUMNS, "why"], ["-"] * (len(COLUMNS) + 2), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _describe(body: type[RequestBody]) -> dict[str, str]:
    """What is done with each field, under all of its names."""
    refused = list_refused(body)
    known = {name: "refused" if name in refused else "honoured" for name in body.model_fields}
    return known | {alias: known[name] for alias, name in _list_aliases(body)}


def _list_aliases(body: type[RequestBody]) -> Iterator[tuple[str, str]]:
    """The other names of fields, with the names that we have for them."""
    for name, field in body.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and OTHER_NAME in field.json_schema_extra:
            yield name, str(field.json_schema_extra[OTHER_NAME])


def _list_reasons() -> Iterator[tuple[str, str]]:
    yield from NO_EFFECT.items()
    for body in COLUMNS.values():
        yield from list_refused(body).items()
        yield from ((alias, f"as `{name}`") for alias, name in _list_aliases(body))


def find_table(page: str) -> str:
    """The table that the page has."""
    found = _TABLE.search(page)
    return found[0] if found else ""


def main() -> None:
    page = PAGE.read_text()
    PAGE.write_text(page.replace(find_table(page), build_table()))


if __name__ == "__main__":
    main()
