"""Who sends a request: the principal behind an API key, and what its role allows."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.api.access.key_files import KeyFiles
from services.api.access.keys import KeyStore, Role, hash_key
from services.api.access.refusal_log import RefusalLog
from services.shared.errors import NotAuthenticated, PermissionDenied

_MAX_KEY_CHARS = 512
_FINGERPRINTS = b"spindll fingerprints of prompts"


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of an API key, to whom fairness, logs and permissions refer."""

    id: str
    role: Role
    name: str
    # Principals of one tenant use what the others' prompts computed; empty: none shares with this.
    tenant: str = ""
    # Keys the hashes of what was asked (cache_reports/); only who has the API key has it.
    fingerprint_key: bytes = field(default=b"", repr=False, compare=False)


class Authenticator:
    """Finds the principal for the credentials of a request; shared by HTTP and gRPC."""

    def __init__(self, files: KeyFiles, store: KeyStore) -> None:
        self._files = files
        self._store = store
        self._wrong_keys = RefusalLog("API key refused")
        self._missing_keys = RefusalLog("request without an API key", level=logging.INFO)

    async def authenticate(self, credentials: Mapping[str, str], *, client: str) -> Principal:
        """The holder of the key in `authorization` or `x-api-key` (names in lower case).

        `client` is the address that a failure is reported with. Raises NotAuthenticated, and
        Unavailable when the key is in no key file and Redis cannot be asked.
        """
        presented = extract_key(credentials)
        if not presented:
            self._missing_keys.report(client)
            raise NotAuthenticated(
                "no API key: send it as `Authorization: Bearer <key>` or `X-Api-Key: <key>`"
            )
        digest = hash_key(presented)
        key = self._files.find(digest) or await self._store.find(digest)
        if key is None:
            self._wrong_keys.report(client)
            raise NotAuthenticated("this API key is not valid")
        return Principal(
            id=key.id,
            role=key.role,
            name=key.name,
            tenant=key.tenant,
            fingerprint_key=_derive_fingerprint_key(presented),
        )


def extract_key(credentials: Mapping[str, str]) -> str:
    """The API key that the credentials carry, or an empty string."""
    scheme, _, token = credentials.get("authorization", "").partition(" ")
    presented = token.strip() if scheme.lower() == "bearer" else ""
    presented = presented or credentials.get("x-api-key", "").strip()
    return presented if len(presented) <= _MAX_KEY_CHARS else ""


def _derive_fingerprint_key(presented: str) -> bytes:
    return hmac.digest(presented.encode(), _FINGERPRINTS, hashlib.sha256)


def require_admin(principal: Principal) -> None:
    """Raise PermissionDenied unless the principal is an admin."""
    if principal.role is not Role.ADMIN:
        raise PermissionDenied("this request needs the admin key")
