"""What routes get from FastAPI: the principal of the request and the worker's long-lived parts.

async def route(api: Parts, principal: RequireUser): ...
"""

from __future__ import annotations

import contextlib
from base64 import b64decode
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from services.api.access.key_manager import KeyManager
from services.api.access.principal import Principal, require_admin
from services.api.cache_reports.recorder import CacheReports
from services.api.clients.engine import EngineClient
from services.api.clients.pulls import PullClient
from services.api.generation.embeddings import EmbeddingService
from services.api.generation.service import GenerationService
from services.api.models.catalog import Catalog
from services.api.parse_budget import ParseBudget
from services.api.prompts.render import PromptRenderer
from services.api.settings import ApiSettings
from services.shared.errors import InvalidRequest, NotAuthenticated
from services.shared.limits import PRIVATE_CACHE_KEY_BYTES


@dataclass(frozen=True, slots=True)
class ApiParts:
    """The long-lived parts of one worker, built by `create_app`."""

    settings: ApiSettings
    engine: EngineClient
    catalog: Catalog
    pulls: PullClient
    prompts: PromptRenderer
    generations: GenerationService
    embeddings: EmbeddingService
    parse_budget: ParseBudget
    keys: KeyManager
    cache_reports: CacheReports


def _require_user(request: Request) -> Principal:
    principal = getattr(request.state, "principal", None)
    if not isinstance(principal, Principal):
        raise NotAuthenticated("no API key")
    return principal


def _require_admin(principal: Annotated[Principal, Depends(_require_user)]) -> Principal:
    require_admin(principal)
    return principal


def _read_private_cache_key(
    x_spindll_cache_key: Annotated[
        str | None,
        Header(
            description="32 bytes as hexadecimal digits or base64: what the prompt computes is "
            "kept for requests with this key only, and stored encrypted with it."
        ),
    ] = None,
) -> bytes:
    """The private key of the request; InvalidRequest for one that is not 32 bytes."""
    if x_spindll_cache_key is None:
        return b""
    text = x_spindll_cache_key.strip()
    with contextlib.suppress(ValueError):
        key = (
            bytes.fromhex(text)
            if len(text) == 2 * PRIVATE_CACHE_KEY_BYTES
            else b64decode(text, validate=True)
        )
        if len(key) == PRIVATE_CACHE_KEY_BYTES:
            return key
    raise InvalidRequest(
        f"X-Spindll-Cache-Key must be {PRIVATE_CACHE_KEY_BYTES} bytes as hexadecimal digits or base64",
        param="X-Spindll-Cache-Key",
    )


def _get_parts(request: Request) -> ApiParts:
    parts = request.app.state.parts
    assert isinstance(parts, ApiParts)
    return parts


RequireUser = Annotated[Principal, Depends(_require_user)]
PrivateCacheKey = Annotated[bytes, Depends(_read_private_cache_key)]
RequireAdmin = Annotated[Principal, Depends(_require_admin)]
Parts = Annotated[ApiParts, Depends(_get_parts)]
