"""The rpcs about stored prompts; server.py turns their errors into gRPC statuses."""

from __future__ import annotations

import math

from protos import engine_pb2 as pb
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.cache_index.tier_manager import TierStatus
from services.engine.front.models.manifest_cache import ManifestCache
from services.shared.errors import InternalError, InvalidRequest


class CacheRpcs:
    """See the module."""

    def __init__(self, prompt_cache: PromptCache, manifests: ManifestCache) -> None:
        self._prompt_cache = prompt_cache
        self._manifests = manifests

    async def read_status(self, request: pb.CacheStatusRequest) -> pb.CacheStatusResponse:
        """What is stored, of one tenant or of all."""
        statuses = await self._prompt_cache.read_status()
        if not request.HasField("tenant"):
            return pb.CacheStatusResponse(
                tiers=[_build_tier(status) for status in statuses], write=self._prompt_cache.write
            )
        tag = self._prompt_cache.tag(request.tenant)
        return pb.CacheStatusResponse(
            tiers=[
                pb.CacheTier(
                    name=status.tier,
                    budget_bytes=status.budget_bytes,
                    bytes=status.tenants.get(tag, 0),
                )
                for status in statuses
            ],
            write=self._prompt_cache.write,
        )

    async def delete(self, request: pb.DeleteCacheRequest) -> pb.DeleteCacheResponse:
        """Delete what matches. Raises InvalidRequest, ModelNotFound, InternalError."""
        digest = age = None
        if request.HasField("model"):
            digest = (await self._manifests.resolve(request.model)).digest
        if request.HasField("older_than_seconds"):
            age = request.older_than_seconds
            if not math.isfinite(age) or age < 0:
                raise InvalidRequest("not a number of seconds", param="older_than_seconds")
        try:
            entries, size = await self._prompt_cache.delete(
                tenant=request.tenant if request.HasField("tenant") else None,
                model_digest=digest,
                older_than_seconds=age,
            )
        except OSError as error:
            raise InternalError(f"stored prompts not deleted: {error.strerror}") from error
        return pb.DeleteCacheResponse(entries=entries, bytes=size)

    async def rotate_keys(self, request: pb.RotateCacheKeysRequest) -> pb.RotateCacheKeysResponse:
        """Begin a new epoch of one tenant or of all. Raises InternalError."""
        try:
            self._prompt_cache.rotate_keys(request.tenant if request.HasField("tenant") else None)
        except OSError as error:
            raise InternalError(f"keys not changed: {error.strerror}") from error
        return pb.RotateCacheKeysResponse()


def _build_tier(status: TierStatus) -> pb.CacheTier:
    counts = status.counts
    return pb.CacheTier(
        name=status.tier,
        budget_bytes=status.budget_bytes,
        bytes=status.bytes,
        entries=status.entries,
        hits=counts.hits,
        stored=counts.stored,
        rejected=counts.rejected,
        not_written=counts.not_written or "",
        saved_seconds=counts.saved_seconds,
        read_bytes=counts.read_bytes,
        stored_bytes=counts.stored_bytes,
    )
