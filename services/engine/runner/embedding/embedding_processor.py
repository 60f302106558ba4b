"""Prepare texts for the pooled context, and what it computed for the front.

Preparing runs beside the loop, on other threads, as for prompts. Texts that are too long are
refused there, or shortened where the request says so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.engine.backends.base import Vocabulary
from services.engine.backends.pooling import PairFormat, PooledModel, PoolingFacts, Vectors
from services.engine.core import TextPiece
from services.engine.messages import reports
from services.engine.messages.commands import Embed, EmbedInput
from services.engine.runner.embedding.embedding_batcher import EmbeddingRequest
from services.shared.errors import (
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    SpindllError,
)
from services.shared.limits import MAX_EMBEDDING_BYTES

logger = logging.getLogger(__name__)

_PLACES = re.compile(r"(\{query\}|\{document\})")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedEmbedding:
    """A request that is ready for the loop, with the command that it came in."""

    command: Embed
    request: EmbeddingRequest


class EmbeddingProcessor:
    """Prepares requests for one loaded model. Any thread."""

    def __init__(self, vocabulary: Vocabulary, model: PooledModel | None) -> None:
        """`model`: None where the backend computes no embeddings."""
        self._vocabulary = vocabulary
        self._model = model

    def prepare(self, command: Embed) -> PreparedEmbedding:
        """Prepare one request.

        Raises InvalidRequest or ContextLengthExceeded, and InternalError for our own bugs.
        """
        try:
            return self._prepare(command)
        except SpindllError:
            raise
        except Exception as error:
            logger.exception("embedding could not be prepared", extra={"id": command.id})
            raise InternalError("internal error") from error

    def _prepare(self, command: Embed) -> PreparedEmbedding:
        if self._model is None:
            raise InvalidRequest("this backend computes no embeddings", param="model")
        facts = self._model.facts
        _check_kind(command, facts)
        size = 4 * len(command.inputs) * (command.dimensions or facts.dimensions)
        if size > MAX_EMBEDDING_BYTES:
            raise InvalidRequest(
                f"the vectors would be {size} bytes, of at most {MAX_EMBEDDING_BYTES}: send fewer "
                "texts",
                param="input",
            )
        if command.query is not None:
            return PreparedEmbedding(command, self._build_pairs(command.query, command, facts))
        texts = [self._read_text(text, facts, command) for text in command.inputs]
        return PreparedEmbedding(command, EmbeddingRequest(command.id, texts, command.principal))

    def _read_text(self, text: EmbedInput, facts: PoolingFacts, command: Embed) -> list[int]:
        if text.tokens is None:
            tokens = self._vocabulary.tokenize((TextPiece(text.text, True),), add_special=True)
        else:
            tokens = list(text.tokens)
            size = self._vocabulary.size
            wrong = next((token for token in tokens if not 0 <= token < size), None)
            if wrong is not None:
                raise InvalidRequest(
                    f"the input names token {wrong}; this model has 0 to {size - 1}", param="input"
                )
        if not tokens:
            raise InvalidRequest("a text has no tokens", param="input")
        if len(tokens) <= facts.max_tokens:
            return tokens
        if not command.truncate:
            raise _build_too_long_error(len(tokens), facts, "input")
        kept_end = 1 if facts.ends_with_special else 0
        return tokens[: facts.max_tokens - kept_end] + tokens[len(tokens) - kept_end :]

    def _build_pairs(self, query: str, command: Embed, facts: PoolingFacts) -> EmbeddingRequest:
        head, tail = self._split_pair(query, facts.pair_format)
        room = facts.max_tokens - len(head) - len(tail)
        texts = []
        for text in command.inputs:
            document = self._tokenize(text.text)
            if room < 1 or (len(document) > room and not command.truncate):
                length = len(head) + len(document) + len(tail)
                raise _build_too_long_error(length, facts, "documents" if room > 0 else "query")
            texts.append(document[:room])
            if not (head or document or tail):
                raise InvalidRequest("query and document have no tokens", param="documents")
        return EmbeddingRequest(command.id, texts, command.principal, before=head, after=tail)

    def _split_pair(self, query: str, form: PairFormat) -> tuple[list[int], list[int]]:
        """The tokens before and after each document."""
        if form.template is None:
            return [*form.before, *self._tokenize(query), *form.between], list(form.after)
        parts: list[list[int]] = [[]]
        for piece in _PLACES.split(form.template):
            if piece == "{document}" and len(parts) == 1:
                parts.append([])
            elif piece == "{query}":
                parts[-1] += self._tokenize(query)
            elif piece != "{document}":
                pieces = (TextPiece(piece),)
                parts[-1] += self._vocabulary.tokenize(pieces, add_special=False)
        return parts[0], parts[1]

    def _tokenize(self, text: str) -> list[int]:
        """The tokens of a person's text, which has no control tokens."""
        return self._vocabulary.tokenize((TextPiece(text, True),), add_special=False)


def build_report(
    command: Embed, request: EmbeddingRequest, rows: Vectors, facts: PoolingFacts
) -> reports.Embedded:
    """The report of what was computed, with the vectors as the command asks for them."""
    rows = _shape_vectors(rows, command) if command.query is None else rows[:, :1]
    return reports.Embedded(
        command.id,
        dimensions=rows.shape[1],
        vectors=np.ascontiguousarray(rows, "<f4").tobytes(),
        tokens=tuple(request.lengths),
        is_probability=facts.is_probability,
    )


def _shape_vectors(rows: Vectors, command: Embed) -> Vectors:
    """Cut and normalise; a vector of zeros stays what it is."""
    if command.dimensions:
        rows = rows[:, : command.dimensions]
    if not (command.normalize or command.dimensions):
        return rows
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def _check_kind(command: Embed, facts: PoolingFacts) -> None:
    if not command.inputs:
        raise InvalidRequest("there are no texts", param="input")
    ranks = facts.pooling == "rank"
    if command.query is None and ranks:
        raise InvalidRequest(
            "this model ranks documents and computes no embeddings: use /v1/rerank", param="model"
        )
    if command.query is not None and not ranks:
        raise InvalidRequest("this model cannot rank documents", param="model")
    if ranks and facts.dimensions > 1 and not facts.is_probability:
        raise InvalidRequest(
            f"this model sorts texts into {facts.dimensions} classes: it cannot rank", param="model"
        )
    if not 0 <= command.dimensions <= facts.dimensions:
        raise InvalidRequest(
            f"dimensions must be at most {facts.dimensions}, the length of this model's vectors",
            param="dimensions",
        )


def _build_too_long_error(length: int, facts: PoolingFacts, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model's maximum context length is {facts.max_tokens} tokens for a text, but one has "
        f"{length} tokens",
        param=param,
        details={"prompt_tokens": length, "context_length": facts.max_tokens},
    )


def count_characters(inputs: Sequence[EmbedInput]) -> int:
    """The length of all inputs together, in characters or tokens."""
    return sum(len(text.text) if text.tokens is None else len(text.tokens) for text in inputs)
