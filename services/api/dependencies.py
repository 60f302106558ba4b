"""What routes get from FastAPI: the principal of the request and the worker's long-lived parts.

async def route(api: Parts, principal: RequireUser): ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.api.access.principal import Principal, require_admin
from services.api.clients.engine import EngineClient
from services.api.clients.pulls import PullClient
from services.api.generation.service import GenerationService
from services.api.models.catalog import Catalog
from services.api.parse_budget import ParseBudget
from services.api.prompts.render import PromptRenderer
from services.api.settings import ApiSettings
from services.shared.errors import NotAuthenticated


@dataclass(frozen=True, slots=True)
class ApiParts:
    """The long-lived parts of one worker, built by `create_app`."""

    settings: ApiSettings
    engine: EngineClient
    catalog: Catalog
    pulls: PullClient
    prompts: PromptRenderer
    generations: GenerationService
    parse_budget: ParseBudget


def _require_user(request: Request) -> Principal:
    principal = getattr(request.state, "principal", None)
    if not isinstance(principal, Principal):
        raise NotAuthenticated("no API key")
    return principal


def _require_admin(principal: Annotated[Principal, Depends(_require_user)]) -> Principal:
    require_admin(principal)
    return principal


def _get_parts(request: Request) -> ApiParts:
    parts = request.app.state.parts
    assert isinstance(parts, ApiParts)
    return parts


RequireUser = Annotated[Principal, Depends(_require_user)]
RequireAdmin = Annotated[Principal, Depends(_require_admin)]
Parts = Annotated[ApiParts, Depends(_get_parts)]
