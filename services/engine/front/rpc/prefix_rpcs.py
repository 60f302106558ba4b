"""The rpcs about named prefixes; server.py turns their errors into gRPC statuses."""

from __future__ import annotations

import time

from protos import engine_pb2 as pb
from services.engine.front.cache_index.prefix_files import NamedPrefix, PrefixPrompt
from services.engine.front.models.manifest_cache import ManifestCache
from services.engine.front.prefix_keeper import PrefixKeeper
from services.engine.front.rpc.from_proto import parse_prompt
from services.shared.errors import InternalError, InvalidRequest, ModelNotFound
from services.shared.limits import MAX_SUBMIT_BYTES, PREFIX_NAME


class PrefixRpcs:
    """See the module."""

    def __init__(self, keeper: PrefixKeeper, manifests: ManifestCache) -> None:
        self._keeper = keeper
        self._manifests = manifests

    async def create(self, request: pb.CreatePrefixRequest) -> pb.Prefix:
        """Create a prefix. Raises what PrefixKeeper.create does, and ModelNotFound."""
        if PREFIX_NAME.fullmatch(request.name) is None:
            raise InvalidRequest(f"not a name of a prefix: {request.name!r}", param="name")
        if request.ByteSize() > MAX_SUBMIT_BYTES:
            raise InvalidRequest(
                f"the prompt is {request.ByteSize()} bytes, of at most {MAX_SUBMIT_BYTES}",
                param="prompt",
            )
        manifest = await self._manifests.resolve(request.model)
        pieces, tokens = parse_prompt(request)
        prefix = NamedPrefix(
            name=request.name,
            tenant=request.tenant or request.principal,
            principal=request.principal,
            model=manifest.name,
            model_digest=manifest.digest,
            created=int(time.time()),
        )
        prompt = PrefixPrompt(pieces, tokens, request.text.add_special)
        try:
            return await self._build(await self._keeper.create(prefix, manifest, prompt))
        except OSError as error:
            raise InternalError(f"the prefix was not kept: {error.strerror}") from error

    async def list(self, request: pb.ListPrefixesRequest) -> pb.ListPrefixesResponse:
        """The prefixes of one tenant or of all."""
        try:
            prefixes = self._keeper.find(request.tenant if request.HasField("tenant") else None)
        except OSError as error:
            raise InternalError(f"no prefixes can be read: {error.strerror}") from error
        return pb.ListPrefixesResponse(prefixes=[await self._build(each) for each in prefixes])

    async def delete(self, request: pb.DeletePrefixRequest) -> pb.DeletePrefixResponse:
        """Delete a prefix. NotFound."""
        try:
            await self._keeper.delete(request.tenant, request.name)
        except OSError as error:
            raise InternalError(f"the prefix was not deleted: {error.strerror}") from error
        return pb.DeletePrefixResponse()

    async def _build(self, prefix: NamedPrefix) -> pb.Prefix:
        try:
            is_outdated = (
                await self._manifests.resolve(prefix.model)
            ).digest != prefix.model_digest
        except ModelNotFound:
            is_outdated = True
        return pb.Prefix(
            name=prefix.name,
            tenant=prefix.tenant,
            model=prefix.model,
            created_at=prefix.created,
            prompt_tokens=prefix.prompt_tokens,
            stored_tokens=prefix.stored_tokens,
            bytes=await self._keeper.measure(prefix),
            is_outdated=is_outdated,
        )
