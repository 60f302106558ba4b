"""The bodies of `POST /v1/embeddings` and of the routes that rank."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from services.api.dialects.openai.schemas.refused_fields import RefusedRerankFields
from services.api.dialects.openai.schemas.token_inputs import TokenId, wrap_single
from services.api.request_body import RequestBody
from services.shared.limits import MAX_EMBEDDING_TEXTS

_MAX_DIMENSIONS = 1 << 16

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def _read_text(value: object) -> object:
    """Cohere's documents may be objects with a text."""
    return value.get("text") if isinstance(value, dict) else value


Inputs = Annotated[
    Annotated[
        list[Text | Tokens], Field(min_length=1, max_length=MAX_EMBEDDING_TEXTS, fail_fast=True)
    ],
    BeforeValidator(wrap_single),
]
Documents = Annotated[
    list[Annotated[str, BeforeValidator(_read_text)]],
    Field(min_length=1, max_length=MAX_EMBEDDING_TEXTS, fail_fast=True),
]


class EmbeddingRequestBody(RequestBody):
    """OpenAI's request for embeddings."""

    model: str = Field(min_length=1)
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=_MAX_DIMENSIONS)
    truncate: bool | None = Field(
        default=None, description="Shorten a text that is too long for the model, instead of a 400."
    )


class RerankRequestBody(RefusedRerankFields):
    """A request to rank: with `documents` in the shape of Jina and Cohere, with `texts` in TEI's."""

    model: str | None = Field(
        default=None, description="May be absent where exactly one stored model ranks."
    )
    query: str = Field(min_length=1)
    documents: Documents | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    texts: Documents | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = Field(
        default=None, description="Shorten a document that is too long. Default: with `documents`."
    )
    truncation_direction: Literal["Right", "right"] | None = None

    @model_validator(mode="after")
    def _check_shape(self) -> RerankRequestBody:
        if (self.documents is None) == (self.texts is None):
            raise ValueError("either documents or texts is required")
        return self

    @property
    def is_tei(self) -> bool:
        """Whether the request and its answer have the shape of text-embeddings-inference."""
        return self.texts is not None
