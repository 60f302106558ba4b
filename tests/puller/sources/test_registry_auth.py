"""The token flow of a registry."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)

from services.puller.sources.registry_auth import OllamaKey, build_token_url
from services.shared.errors import InvalidSettings, PullFailed

REGISTRY = "https://registry.example/v2/library/tiny/manifests/latest"


def build_url(challenge: str) -> str:
    return build_token_url(REGISTRY, challenge, nonce="n0nce", now=1700000000.7)


def test_the_token_request_has_each_scope() -> None:
    challenge = 'Bearer realm="https://registry.example/token?a=b",service="reg",scope="one two"'

    url = urlsplit(build_url(challenge))

    assert (url.scheme, url.netloc, url.path) == ("https", "registry.example", "/token")
    assert parse_qs(url.query) == {
        "a": ["b"],
        "service": ["reg"],
        "scope": ["one", "two"],
        "ts": ["1700000000"],
        "nonce": ["n0nce"],
    }


def test_values_may_have_no_quotes() -> None:
    assert "service=reg" in build_url("Bearer realm=https://registry.example/token,service=reg")


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://evil.example/token"',
        'Bearer realm="http://registry.example/token"',
        'Bearer realm="https://registry.example:444/token"',
        'Bearer realm="//registry.example/token"',
    ],
    ids=["another host", "plain http", "another port", "no scheme"],
)
def test_a_realm_that_is_not_the_registry_is_refused(challenge: str) -> None:
    with pytest.raises(PullFailed, match="another host"):
        build_url(challenge)


def test_a_malformed_realm_is_refused_in_words() -> None:
    with pytest.raises(PullFailed, match="not well formed"):
        build_url('Bearer realm="https://[registry.example"')


@pytest.mark.timeout(15)
def test_a_challenge_of_one_long_word_is_read_once() -> None:
    with pytest.raises(PullFailed, match="private or gated"):
        build_url("Bearer " + "a" * 60_000)


@pytest.mark.parametrize("challenge", ["", "Basic realm=x", "Bearer", 'Bearer service="x"'])
def test_an_unsupported_challenge_means_a_private_model(challenge: str) -> None:
    with pytest.raises(PullFailed, match="private or gated"):
        build_url(challenge)


def test_an_ollama_key_signs_the_method_and_the_url(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )
    )
    url = "https://registry.example/token?x=1"

    public, _, signature = OllamaKey(path).authorization("GET", url).partition(":")

    key = load_ssh_public_key(f"ssh-ed25519 {public}".encode())
    assert isinstance(key, Ed25519PublicKey)
    empty = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    key.verify(base64.b64decode(signature), f"GET,{url},{empty}".encode())


def test_a_file_without_a_key_is_an_invalid_setting(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("not a key")

    with pytest.raises(InvalidSettings):
        OllamaKey(path)
