"""The calls about named prefixes, of the scripted engine."""

from __future__ import annotations

from typing import Any

from protos import engine_pb2
from protos.engine_pb2_grpc import EngineServicer


def build_prefix(name: str, tenant: str) -> engine_pb2.Prefix:
    return engine_pb2.Prefix(
        name=name,
        tenant=tenant,
        model="tiny:latest",
        created_at=1_700_000_000,
        prompt_tokens=900,
        stored_tokens=768,
        bytes=2_500_000,
    )


class ScriptedPrefixes(EngineServicer):
    """Keeps nothing: each tenant has the prefix "rules"."""

    async def _unary(self, request: Any, context: Any, answer: Any) -> Any:
        raise NotImplementedError

    async def CreatePrefix(  # noqa: N802
        self, request: engine_pb2.CreatePrefixRequest, context: Any
    ) -> Any:
        return await self._unary(request, context, build_prefix(request.name, request.tenant))

    async def ListPrefixes(  # noqa: N802
        self, request: engine_pb2.ListPrefixesRequest, context: Any
    ) -> Any:
        """Each tenant that is asked for has the prefix "rules"."""
        tenants = [request.tenant] if request.HasField("tenant") else ["alice", "bob"]
        answer = [build_prefix("rules", tenant) for tenant in tenants]
        return await self._unary(request, context, engine_pb2.ListPrefixesResponse(prefixes=answer))

    async def DeletePrefix(  # noqa: N802
        self, request: engine_pb2.DeletePrefixRequest, context: Any
    ) -> Any:
        return await self._unary(request, context, engine_pb2.DeletePrefixResponse())
