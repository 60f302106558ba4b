"""Who asks. Every path but the public ones needs a key; there is no setting that says otherwise.

A plain ASGI middleware, so that it runs before a body is read and sees unknown routes too. The
principal it finds is `request.state.principal`; roles are checked by the routes (dependencies.py).
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from redis.exceptions import RedisError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.access.keys import KeyCache, KeyStore, Role, digest_of
from services.api.errors import response_of
from services.shared.errors import NotAuthenticated, PermissionDenied, SpindllError, Unavailable

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/ready"})
_MAX_KEY_CHARS = 512


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request belongs to, for fairness, logs and permissions."""

    id: str
    role: Role
    name: str


class Authenticator:
    """Turns the credentials of a request into a principal; HTTP and gRPC share it."""

    def __init__(self, store: KeyStore, cache: KeyCache) -> None:
        self._store = store
        self._cache = cache

    async def principal(self, credentials: Mapping[str, str]) -> Principal:
        """The holder of the key in `authorization` or `x-api-key` (names in lower case).

        Raises NotAuthenticated, and Unavailable when no one can be asked.
        """
        presented = key_of(credentials)
        if not presented:
            raise NotAuthenticated(
                "no API key: send it as `Authorization: Bearer <key>` or `X-Api-Key: <key>`"
            )
        digest = digest_of(presented)
        known, key = self._cache.get(digest)
        if not known:
            try:
                key = await self._store.find(digest)
            except RedisError as error:
                logger.warning("keys cannot be checked", extra={"reason": type(error).__name__})
                raise Unavailable("API keys cannot be checked right now") from error
            self._cache.put(digest, key)
        if key is None or not hmac.compare_digest(key.hash, digest):
            raise NotAuthenticated("this API key is not known here")
        return Principal(id=key.id, role=key.role, name=key.name)


def key_of(credentials: Mapping[str, str]) -> str:
    """The key as presented, or an empty string."""
    scheme, _, token = credentials.get("authorization", "").partition(" ")
    presented = token.strip() if scheme.lower() == "bearer" else ""
    presented = presented or credentials.get("x-api-key", "").strip()
    return presented if len(presented) <= _MAX_KEY_CHARS else ""


def require_admin(principal: Principal) -> None:
    """Raise PermissionDenied unless the key is an admin's."""
    if principal.role is not Role.ADMIN:
        raise PermissionDenied("this needs the admin key")


class AuthMiddleware:
    """Lets a request in with its principal, or answers 401 itself."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find the principal, or answer."""
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._authenticator.principal(Headers(scope=scope))
        except SpindllError as error:
            await response_of(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)
