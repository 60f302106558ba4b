"""The token flow of a registry: a 401 names a realm, and the realm issues a bearer token.

The realm must be on the registry's own host. Otherwise a hostile registry could make the puller
sign a proof of identity and send it to a third party. With an Ollama key (ed25519), the token
request is signed as in ollama's auth/auth.go; without a key it is anonymous.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlunsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

from services.puller.transport.address import Address
from services.puller.transport.busy import find_busy_error
from services.puller.transport.http_client import HttpSession
from services.puller.transport.range_response import describe_refusal
from services.puller.transport.urls import find_origin, split_url
from services.shared.errors import InvalidSettings, PullFailed
from services.shared.structs import decode_json, resolved

# The lookbehind keeps a long word without `=` from being tried from each of its letters.
_PARAMETER = re.compile(r'(?<![a-zA-Z])([a-zA-Z]+)=(?:"([^"]*)"|([^\s,]*))')
_MAX_TOKEN_BYTES = 64 << 10


@resolved
class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class TokenSigner(Protocol):
    """Signs token requests with an identity."""

    def authorization(self, method: str, url: str) -> str:
        """The Authorization header for a request without a body."""


class OllamaKey:
    """An Ollama identity, as its client creates it (`id_ed25519`, an OpenSSH private key)."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidSettings when the file is not an unencrypted ed25519 key."""
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


def fetch_token(
    session: HttpSession, registry_url: str, challenge: str, signer: TokenSigner | None
) -> str:
    """Request a bearer token for the challenge of a 401. Raises PullFailed when it is refused."""
    url = build_token_url(registry_url, challenge, nonce=secrets.token_urlsafe(16), now=time.time())
    proof = {"Authorization": signer.authorization("GET", url)} if signer else None
    with session.get(Address(url, proof), {"Accept": "application/json"}) as reply:
        if busy := find_busy_error("the registry", reply.status, reply.header):
            raise busy
        if reply.status != 200:
            raise PullFailed(describe_refusal(401))
        try:
            answer = decode_json(reply.read_all(_MAX_TOKEN_BYTES), _Token)
        except msgspec.DecodeError as error:
            raise PullFailed("the registry's token is not readable") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise PullFailed(describe_refusal(401))
    return token


def build_token_url(registry_url: str, challenge: str, *, nonce: str, now: float) -> str:
    """The URL of the token request. Raises PullFailed for an unsupported challenge."""
    scheme, _, rest = challenge.partition(" ")
    values = {m[1].lower(): m[2] if m[2] is not None else m[3] for m in _PARAMETER.finditer(rest)}
    if scheme.lower() != "bearer" or not values.get("realm"):
        raise PullFailed(describe_refusal(401))
    realm = split_url(values["realm"])
    if find_origin(realm) != find_origin(split_url(registry_url)):
        raise PullFailed("the registry sends token requests to another host, which is not safe")
    query = parse_qsl(realm.query)
    if service := values.get("service"):
        query.append(("service", service))
    query += [("scope", scope) for scope in values.get("scope", "").split()]
    query += [("ts", str(int(now))), ("nonce", nonce)]
    return urlunsplit(realm._replace(query=urlencode(query)))
