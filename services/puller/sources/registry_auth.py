"""The token flow of a registry: a 401 names a realm, the realm gives a bearer token.

The realm must be on the registry's own host, or a hostile registry could have us sign and send a
proof of identity to somebody else. With an Ollama key (ed25519) the request for the token is signed
as ollama's auth/auth.go does; without one it is made anonymously.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

from services.puller.transport.http_client import Address, Session
from services.puller.transport.range_response import refusal
from services.shared.errors import InvalidSettings, PullFailed, SourceUnavailable
from services.shared.structs import resolved

_PARAMETER = re.compile(r'([a-zA-Z]+)=(?:"([^"]*)"|([^\s,]*))')
_MAX_TOKEN_BYTES = 64 << 10


@resolved
class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class TokenSigner(Protocol):
    """Proves who asks for a token."""

    def authorization(self, method: str, url: str) -> str:
        """The Authorization header of a request without a body."""


class OllamaKey:
    """An Ollama identity, as its client makes one (`id_ed25519`, an OpenSSH private key)."""

    def __init__(self, path: Path) -> None:
        """InvalidSettings when the file is not an unencrypted ed25519 key."""
        try:
            key = load_ssh_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidSettings("the Ollama key file is not readable") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidSettings("the Ollama key file does not hold an ed25519 key")
        self._key = key

    def authorization(self, method: str, url: str) -> str:
        """`<public key>:<signature>` over method, URL and the hash of the empty body."""
        empty = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        signature = self._key.sign(f"{method},{url},{empty}".encode())
        public = self._key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return f"{public.split()[1].decode()}:{base64.b64encode(signature).decode()}"


def challenge_token(
    session: Session, registry_url: str, challenge: str, signer: TokenSigner | None
) -> str:
    """The bearer token for a 401's challenge; PullFailed when there is none to be had."""
    url = token_url(registry_url, challenge, nonce=secrets.token_urlsafe(16), now=time.time())
    proof = {"Authorization": signer.authorization("GET", url)} if signer else None
    with session.get(Address(url, proof), {"Accept": "application/json"}) as reply:
        if reply.status == 429 or reply.status >= 500:
            raise SourceUnavailable(f"the registry answered HTTP {reply.status}")
        if reply.status != 200:
            raise PullFailed(refusal(401))
        try:
            answer = msgspec.json.decode(reply.read_all(_MAX_TOKEN_BYTES), type=_Token)
        except msgspec.DecodeError as error:
            raise PullFailed("the registry's token is not readable") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise PullFailed(refusal(401))
    return token


def token_url(registry_url: str, challenge: str, *, nonce: str, now: float) -> str:
    """Where to ask for the token; PullFailed when the challenge is not one we follow."""
    scheme, _, rest = challenge.partition(" ")
    values = {m[1].lower(): m[2] if m[2] is not None else m[3] for m in _PARAMETER.finditer(rest)}
    if scheme.lower() != "bearer" or not values.get("realm"):
        raise PullFailed(refusal(401))
    realm, registry = urlsplit(values["realm"]), urlsplit(registry_url)
    if (realm.scheme, realm.netloc.lower()) != (registry.scheme, registry.netloc.lower()):
        raise PullFailed("the registry sends us to another host for a token, which is not safe")
    query = parse_qsl(realm.query)
    if service := values.get("service"):
        query.append(("service", service))
    query += [("scope", scope) for scope in values.get("scope", "").split()]
    query += [("ts", str(int(now))), ("nonce", nonce)]
    return urlunsplit(realm._replace(query=urlencode(query)))
