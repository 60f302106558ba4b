"""Servers that send what no server should."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from services.puller.transport.address import Address
from services.puller.transport.http_client import HttpSession
from services.puller.transport.range_response import (
    RangeRequest,
    RangeResponse,
    classify_response,
    parse_total_size,
)
from services.puller.transport.watchdog import Watchdog
from services.shared.errors import PullFailed, SourceUnavailable
from tests.fakes.registries.server import Handler, LoopbackServer

WAIT_SECONDS = 30
MANY_DIGITS = "9" * 5000  # int() refuses more than 4300


@pytest.fixture
def session() -> Iterator[HttpSession]:
    made = HttpSession(timeout_seconds=0.4)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.mark.parametrize(
    "target",
    ["http://[h/x", "http://h:99999/x", "http://h:abc/x", "http:///x"],
    ids=["bracket", "port too large", "port not a number", "no host"],
)
def test_a_malformed_redirect_is_refused_in_words(
    session: HttpSession, server: LoopbackServer, target: str
) -> None:
    server.handler = lambda request, path: request.redirect(target)

    with pytest.raises(PullFailed, match=r"not well formed|in circles"):
        session.get(Address(f"{server.url}/x"))


@pytest.mark.parametrize("location", ["/für dich", "/f%C3%BCr%20dich"], ids=["plain", "encoded"])
def test_a_redirect_may_have_plain_letters_of_any_language(
    session: HttpSession, server: LoopbackServer, location: str
) -> None:
    def answer(request: Handler, path: str) -> None:
        if path == "/first":
            request.redirect(location.encode().decode("latin-1"))
        else:
            request.reply(200, path.encode())

    server.handler = answer

    with session.get(Address(f"{server.url}/first")) as reply:
        assert reply.read_all(100) == b"/f%C3%BCr%20dich"


def test_a_size_of_thousands_of_digits_is_none(
    session: HttpSession, server: LoopbackServer
) -> None:
    server.handler = lambda request, path: request.reply(200, b"", {"Content-Length": MANY_DIGITS})

    with session.get(Address(f"{server.url}/x")) as reply:
        assert reply.content_length is None


def test_a_range_of_thousands_of_digits_is_another_range() -> None:
    response = RangeResponse(206, f"bytes 0-{MANY_DIGITS}/10", 10)

    assert parse_total_size(f"bytes 0-1/{MANY_DIGITS}") is None
    with pytest.raises(SourceUnavailable, match="another range"):
        classify_response(RangeRequest(0, 9, 10), response)


def test_a_chunk_of_negative_size_is_an_error(session: HttpSession, server: LoopbackServer) -> None:
    def answer(request: Handler, path: str) -> None:
        request.reply(200, b"-5\r\n" + b"x" * 5000, {"Transfer-Encoding": "chunked"})

    server.handler = answer

    with (
        session.get(Address(f"{server.url}/x")) as reply,
        pytest.raises(SourceUnavailable, match="not well formed"),
    ):
        reply.read_chunk(1000)


def drip(request: Handler, data: bytes) -> None:
    """Send a byte in each tenth of a second, for five seconds; then the rest."""
    stopping = request.server_of.stopping
    for i in range(50):
        request.wfile.write(data[i : i + 1])
        if stopping.wait(0.1):
            return
    request.wfile.write(data[50:])


def drip_headers(request: Handler) -> None:
    drip(request, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100 + b"\r\nContent-Length: 0\r\n\r\n")


def repeat_continue(request: Handler) -> None:
    for _ in range(50):
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.server_of.stopping.wait(0.1):
            return
    request.reply(200, b"")


def drip_chunk_size(request: Handler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    drip(request, b"1;" + b"x" * 100 + b"\r\na\r\n0\r\n\r\n")


def drip_body(request: Handler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    drip(request, b"x" * 100)


@pytest.mark.parametrize(
    "send", [drip_headers, repeat_continue, drip_chunk_size, drip_body], ids=lambda f: f.__name__
)
def test_an_answer_that_trickles_in_is_given_up(
    session: HttpSession, server: LoopbackServer, send: Callable[[Handler], None]
) -> None:
    server.handler = lambda request, path: send(request)

    with pytest.raises(SourceUnavailable):
        session.get(Address(f"{server.url}/x")).read_all(200)


def test_a_session_goes_on_after_an_answer_that_trickled_in(
    session: HttpSession, server: LoopbackServer
) -> None:
    server.handler = lambda request, path: drip_headers(request)
    with pytest.raises(SourceUnavailable):
        session.get(Address(f"{server.url}/x"))
    server.handler = lambda request, path: request.reply(200, b"well")

    with session.get(Address(f"{server.url}/x")) as reply:
        assert reply.read_all(100) == b"well"


def test_the_watchdog_aborts_until_the_call_ends_and_not_after() -> None:
    watchdog, aborted, later = Watchdog(), threading.Semaphore(0), threading.Event()

    with watchdog.limit(0.0, aborted.release), watchdog.limit(WAIT_SECONDS, later.set):
        assert aborted.acquire(timeout=WAIT_SECONDS)
        assert aborted.acquire(timeout=WAIT_SECONDS)

    count = aborted._value
    with watchdog.limit(0.0, later.set):
        assert later.wait(WAIT_SECONDS)
    assert aborted._value == count
