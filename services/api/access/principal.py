"""Who sends a request: the principal behind an API key, and what its role allows."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from redis.exceptions import RedisError

from services.api.access.keys import KeyCache, KeyStore, Role, hash_key
from services.shared.errors import NotAuthenticated, PermissionDenied, Unavailable

logger = logging.getLogger(__name__)

_MAX_KEY_CHARS = 512


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of an API key, to whom fairness, logs and permissions refer."""

    id: str
    role: Role
    name: str


class Authenticator:
    """Finds the principal for the credentials of a request; shared by HTTP and gRPC."""

    def __init__(self, store: KeyStore, cache: KeyCache) -> None:
        self._store = store
        self._cache = cache

    async def authenticate(self, credentials: Mapping[str, str]) -> Principal:
        """The holder of the key in `authorization` or `x-api-key` (names in lower case).

        Raises NotAuthenticated, and Unavailable when the key cannot be looked up.
        """
        presented = extract_key(credentials)
        if not presented:
            raise NotAuthenticated(
                "no API key: send it as `Authorization: Bearer <key>` or `X-Api-Key: <key>`"
            )
        digest = hash_key(presented)
        is_cached, key = self._cache.get(digest)
        if not is_cached:
            try:
                key = await self._store.find(digest)
            except RedisError as error:
                logger.warning("API keys cannot be checked", extra={"reason": type(error).__name__})
                raise Unavailable("API keys cannot be checked right now") from error
            self._cache.put(digest, key)
        if key is None or not hmac.compare_digest(key.hash, digest):
            raise NotAuthenticated("this API key is not valid")
        return Principal(id=key.id, role=key.role, name=key.name)


def extract_key(credentials: Mapping[str, str]) -> str:
    """The API key that the credentials carry, or an empty string."""
    scheme, _, token = credentials.get("authorization", "").partition(" ")
    presented = token.strip() if scheme.lower() == "bearer" else ""
    presented = presented or credentials.get("x-api-key", "").strip()
    return presented if len(presented) <= _MAX_KEY_CHARS else ""


def require_admin(principal: Principal) -> None:
    """Raise PermissionDenied unless the principal is an admin."""
    if principal.role is not Role.ADMIN:
        raise PermissionDenied("this request needs the admin key")
