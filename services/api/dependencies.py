"""What routes ask FastAPI for: who calls, the worker's long-lived parts, and parsed bodies.

async def route(body: Annotated[ChatRequest, Depends(body_of(ChatRequest))], api: Parts, _: RequireUser)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from services.api.clients.engine import EngineClient
from services.api.clients.pulls import PullQueue
from services.api.middleware.authentication import Principal, require_admin
from services.api.models.catalog import Catalog
from services.api.models.pull_on_demand import OnDemand
from services.api.settings import ApiSettings
from services.shared.errors import NotAuthenticated

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ApiParts:
    """One worker's long-lived parts, made by `create_app`."""

    settings: ApiSettings
    engine: EngineClient
    catalog: Catalog
    pulls: PullQueue
    on_demand: OnDemand  # the catalogue, for requests that want an answer from a model


def require_user(request: Request) -> Principal:
    """Whoever presented a good key; the middleware has looked."""
    principal = getattr(request.state, "principal", None)
    if not isinstance(principal, Principal):
        raise NotAuthenticated("no API key")
    return principal


def _admin(principal: Annotated[Principal, Depends(require_user)]) -> Principal:
    require_admin(principal)
    return principal


def _parts(request: Request) -> ApiParts:
    parts = request.app.state.parts
    assert isinstance(parts, ApiParts)
    return parts


RequireUser = Annotated[Principal, Depends(require_user)]
RequireAdmin = Annotated[Principal, Depends(_admin)]
Parts = Annotated[ApiParts, Depends(_parts)]


def body_of(model: type[B]) -> Callable[[Request], Awaitable[B]]:
    """A dependency that parses the body as JSON whatever its content type says, as curl users
    expect; raises RequestValidationError."""

    async def parse(request: Request) -> B:
        raw = await request.body() or b"{}"
        try:
            return model.model_validate_json(raw)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            raise RequestValidationError(problems, body=_readable(raw)) from None

    return parse


def _readable(raw: bytes) -> object:
    try:
        return from_json(raw)
    except ValueError:
        return None
