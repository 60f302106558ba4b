"""Credentials, redirects and proxies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.puller.transport.address import Address
from services.puller.transport.http_client import HttpSession
from services.shared.errors import PullFailed, SourceUnavailable
from tests.fakes.registries.server import Handler, LoopbackServer


@pytest.fixture
def session() -> Iterator[HttpSession]:
    made = HttpSession(timeout_seconds=5.0)
    yield made
    made.close()


@pytest.fixture
def origin() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        server.files["/there"] = b"hello"
        yield server


def test_a_secret_is_sent_to_its_origin_only(
    session: HttpSession, origin: LoopbackServer, other: LoopbackServer
) -> None:
    def answer(request: Handler, path: str) -> None:
        request.redirect("/again" if path == "/first" else f"{other.url}/there")

    origin.handler = answer
    address = Address(f"{origin.url}/first", {"Authorization": "Bearer secret"})

    with session.get(address) as reply:
        assert reply.read_all(100) == b"hello"

    assert [request.headers.get("authorization") for request in origin.requests] == [
        "Bearer secret"
    ] * 2
    assert [request.headers.get("authorization") for request in other.requests] == [None]


@pytest.mark.parametrize("target", ["ftp://h/x", "file:///etc/passwd", "javascript:x"])
def test_a_redirect_to_anything_but_http_is_refused(
    session: HttpSession, origin: LoopbackServer, target: str
) -> None:
    origin.handler = lambda request, path: request.redirect(target)

    with pytest.raises(PullFailed, match="not http"):
        session.get(Address(f"{origin.url}/x"))


def test_a_redirect_loop_ends(session: HttpSession, origin: LoopbackServer) -> None:
    origin.handler = lambda request, path: request.redirect("/x")

    with pytest.raises(PullFailed, match="circles"):
        session.get(Address(f"{origin.url}/x"))
    assert len(origin.requests) == 11


def test_a_kept_connection_is_reused(session: HttpSession, other: LoopbackServer) -> None:
    for _ in range(3):
        with session.get(Address(f"{other.url}/there")) as reply:
            reply.read_all(100)

    assert len(session._connections) == 1


def test_more_than_the_limit_is_not_read(session: HttpSession, other: LoopbackServer) -> None:
    with (
        session.get(Address(f"{other.url}/there")) as reply,
        pytest.raises(PullFailed, match="more than 3 bytes"),
    ):
        reply.read_all(3)


def test_a_host_that_does_not_answer_is_unavailable(session: HttpSession) -> None:
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1 does not answer"):
        session.get(Address("http://127.0.0.1:1/x"))


def test_a_session_that_was_shut_down_sends_no_request(
    session: HttpSession, other: LoopbackServer
) -> None:
    session.shut_down()

    with pytest.raises(SourceUnavailable):
        session.get(Address(f"{other.url}/there"))


def test_a_proxy_of_the_environment_is_used(
    session: HttpSession, origin: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.handler = lambda request, path: request.reply(200, b"by proxy")
    monkeypatch.setenv("http_proxy", f"http://user:pa%40ss@127.0.0.1:{origin.port}")
    monkeypatch.setenv("no_proxy", "direct.example")

    with session.get(Address("http://far.example/file")) as reply:
        assert reply.read_all(100) == b"by proxy"

    assert origin.paths() == ["http://far.example/file"]
    assert origin.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwYUBzcw=="


def test_no_proxy_is_respected(
    session: HttpSession, other: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    with session.get(Address(f"{other.url}/there")) as reply:
        assert reply.read_all(100) == b"hello"
