"""The rpcs for embeddings and ranking; server.py turns their errors into gRPC statuses."""

from __future__ import annotations

import struct

from protos import engine_pb2 as pb
from services.engine.front.models.manager import ModelManager
from services.engine.front.models.manifest_cache import ManifestCache
from services.engine.messages.commands import Embed, EmbedInput
from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_EMBEDDING_TEXTS, MAX_SUBMIT_BYTES


class EmbeddingRpcs:
    """See the module."""

    def __init__(self, manager: ModelManager, manifests: ManifestCache) -> None:
        self._manager = manager
        self._manifests = manifests

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """Compute vectors. Raises what ModelManager.embed does, and ModelNotFound."""
        _check_size(len(request.inputs), request.ByteSize(), "input")
        command = Embed(
            id=0,
            inputs=tuple(_parse_input(text) for text in request.inputs),
            truncate=request.truncate,
            dimensions=request.dimensions,
            normalize=not request.raw,
            principal=request.principal,
        )
        report = await self._manager.embed(await self._manifests.resolve(request.model), command)
        return pb.EmbedResponse(
            vectors=report.vectors, dimensions=report.dimensions, tokens=report.tokens
        )

    async def rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        """Score documents. As `embed`."""
        _check_size(len(request.documents), request.ByteSize(), "documents")
        command = Embed(
            id=0,
            inputs=tuple(EmbedInput(text) for text in request.documents),
            query=request.query,
            truncate=request.truncate,
            principal=request.principal,
        )
        report = await self._manager.embed(await self._manifests.resolve(request.model), command)
        return pb.RerankResponse(
            scores=struct.unpack(f"<{len(command.inputs)}f", report.vectors),
            is_probability=report.is_probability,
            tokens=report.tokens,
        )


def _parse_input(message: pb.EmbedInput) -> EmbedInput:
    if message.WhichOneof("kind") != "tokens":
        return EmbedInput(message.text)
    ids = tuple(message.tokens.ids)
    if ids and max(ids) >= 1 << 31:  # as in prompts: the runner's ids are signed
        raise InvalidRequest("a token id of the input is out of range", param="input")
    return EmbedInput(tokens=ids)


def _check_size(count: int, size_bytes: int, param: str) -> None:
    if not 1 <= count <= MAX_EMBEDDING_TEXTS:
        raise InvalidRequest(
            f"there must be 1 to {MAX_EMBEDDING_TEXTS} texts, not {count}", param=param
        )
    if size_bytes > MAX_SUBMIT_BYTES:
        raise InvalidRequest(
            f"the texts are {size_bytes} bytes, of at most {MAX_SUBMIT_BYTES}", param=param
        )
