"""Who sees a key, where redirects may lead, and proxies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.puller.transport.http_client import Address, Session
from services.shared.errors import PullFailed, SourceUnavailable
from tests.fakes.registries.server import Handler, LoopbackServer


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(timeout_seconds=5.0)
    yield made
    made.close()


@pytest.fixture
def one() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def two() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        server.files["/there"] = b"hello"
        yield server


def test_a_secret_stays_with_its_origin(
    session: Session, one: LoopbackServer, two: LoopbackServer
) -> None:
    def answer(request: Handler, path: str) -> None:
        request.redirect("/again" if path == "/first" else f"{two.url}/there")

    one.answers = answer
    address = Address(f"{one.url}/first", {"Authorization": "Bearer secret"})

    with session.get(address) as reply:
        assert reply.read_all(100) == b"hello"

    assert [seen.headers.get("authorization") for seen in one.seen] == ["Bearer secret"] * 2
    assert [seen.headers.get("authorization") for seen in two.seen] == [None]


@pytest.mark.parametrize("target", ["ftp://h/x", "file:///etc/passwd", "javascript:x"])
def test_a_redirect_to_anything_but_http_is_refused(
    session: Session, one: LoopbackServer, target: str
) -> None:
    one.answers = lambda request, path: request.redirect(target)

    with pytest.raises(PullFailed, match="not http"):
        session.get(Address(f"{one.url}/x"))


def test_redirects_in_circles_end(session: Session, one: LoopbackServer) -> None:
    one.answers = lambda request, path: request.redirect("/x")

    with pytest.raises(PullFailed, match="circles"):
        session.get(Address(f"{one.url}/x"))
    assert len(one.seen) == 11


def test_a_kept_connection_is_used_again(session: Session, two: LoopbackServer) -> None:
    for _ in range(3):
        with session.get(Address(f"{two.url}/there")) as reply:
            reply.read_all(100)

    assert len(session._connections) == 1


def test_more_than_the_limit_is_not_read(session: Session, two: LoopbackServer) -> None:
    with (
        session.get(Address(f"{two.url}/there")) as reply,
        pytest.raises(PullFailed, match="more than 3 bytes"),
    ):
        reply.read_all(3)


def test_nobody_there_is_worth_another_try(session: Session) -> None:
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1 does not answer"):
        session.get(Address("http://127.0.0.1:1/x"))


def test_a_session_that_was_shut_down_asks_nobody(session: Session, two: LoopbackServer) -> None:
    session.shut_down()

    with pytest.raises(SourceUnavailable):
        session.get(Address(f"{two.url}/there"))


def test_a_proxy_of_the_environment_is_asked_instead(
    session: Session, one: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.answers = lambda request, path: request.reply(200, b"by proxy")
    monkeypatch.setenv("http_proxy", f"http://user:pa%40ss@127.0.0.1:{one.port}")
    monkeypatch.setenv("no_proxy", "direct.example")

    with session.get(Address("http://far.example/file")) as reply:
        assert reply.read_all(100) == b"by proxy"

    assert one.paths() == ["http://far.example/file"]
    assert one.seen[0].headers["proxy-authorization"] == "Basic dXNlcjpwYUBzcw=="


def test_no_proxy_is_obeyed(
    session: Session, two: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    with session.get(Address(f"{two.url}/there")) as reply:
        assert reply.read_all(100) == b"hello"
