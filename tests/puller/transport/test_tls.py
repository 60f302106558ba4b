"""HTTPS on loopback with a private authority: trust, proxies, refusals, and their words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from services.puller.sources.base import ResolveOptions
from services.puller.sources.huggingface import HuggingFaceSource
from services.puller.transport import http_client
from services.puller.transport.address import Address
from services.puller.transport.http_client import HttpSession
from services.shared.errors import PullFailed, SourceUnavailable
from services.shared.model_name import ModelName
from tests.fakes.registries.authority import Authority
from tests.fakes.registries.server import Handler, LoopbackServer
from tests.fakes.registries.tunnel import TunnelProxy


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[LoopbackServer]:
    with LoopbackServer(tls=authority.server_context) as running:
        running.files["/file"] = b"hello"
        yield running


@pytest.fixture
def session() -> Iterator[HttpSession]:
    http_client.tls_context.cache_clear()
    made = HttpSession(timeout_seconds=5.0)
    yield made
    made.close()
    http_client.tls_context.cache_clear()


@pytest.fixture
def _trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))


@pytest.mark.usefixtures("_trusted")
def test_an_authority_of_the_environment_is_trusted(
    session: HttpSession, server: LoopbackServer
) -> None:
    with session.get(Address(f"{server.url}/file")) as reply:
        assert reply.read_all(100) == b"hello"


@pytest.mark.usefixtures("_trusted")
def test_a_reader_of_a_session_that_is_shut_down_gets_no_encrypted_bytes(
    session: HttpSession, server: LoopbackServer
) -> None:
    server.files["/zeros"] = bytes(4 << 20)
    read = bytearray()

    with (
        session.get(Address(f"{server.url}/zeros")) as reply,
        contextlib.suppress(SourceUnavailable),
    ):
        read += reply.read_chunk(1000)
        session.shut_down()
        while data := reply.read_chunk(1 << 20):
            read += data

    assert read == bytes(len(read))


def test_an_unknown_authority_is_named_as_the_reason(
    session: HttpSession, server: LoopbackServer
) -> None:
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1 is not trusted.*SSL_CERT_FILE"):
        session.get(Address(f"{server.url}/file"))


@pytest.mark.parametrize("valid_days", [(-3, -2), (2, 3)], ids=["expired", "not valid yet"])
def test_a_certificate_that_is_not_valid_now_points_to_the_clock(
    session: HttpSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    valid_days: tuple[int, int],
) -> None:
    authority = Authority(tmp_path, valid_days=valid_days)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    with (
        LoopbackServer(tls=authority.server_context) as server,
        pytest.raises(SourceUnavailable, match="check the clock"),
    ):
        session.get(Address(f"{server.url}/file"))


def test_the_hub_s_listing_has_the_same_words(server: LoopbackServer) -> None:
    source = HuggingFaceSource(server.url)

    with pytest.raises(SourceUnavailable, match=r"the hub is not trusted.*SSL_CERT_FILE"):
        source.resolve(ModelName.parse("owner/repo"), ResolveOptions())


@pytest.mark.usefixtures("_trusted")
def test_listing_and_downloads_trust_the_same_authorities(
    session: HttpSession, server: LoopbackServer
) -> None:
    server.handler = lambda request, path: request.reply(200, b"[]")

    assert list(HfApi(endpoint=server.url, token=False).list_models()) == []
    with session.get(Address(f"{server.url}/file")) as reply:
        assert reply.status == 200


@pytest.mark.usefixtures("_trusted")
def test_a_redirect_from_https_to_http_is_refused(
    session: HttpSession, server: LoopbackServer
) -> None:
    def answer(request: Handler, path: str) -> None:
        request.redirect(f"http://127.0.0.1:{server.port}/file")

    server.handler = answer

    with pytest.raises(PullFailed, match="plain http"):
        session.get(Address(f"{server.url}/x"))


@pytest.mark.usefixtures("_trusted")
def test_https_goes_through_the_tunnel_of_a_proxy_with_a_password(
    session: HttpSession, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TunnelProxy("user", "pa@ss") as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:pa%40ss@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        with session.get(Address(f"{server.url}/file")) as reply:
            assert reply.read_all(100) == b"hello"
        session.close()

    assert proxy.targets == [f"127.0.0.1:{server.port}"]
