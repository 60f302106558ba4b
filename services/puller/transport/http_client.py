"""HTTP as a downloader needs it: big reads, kept connections, and care about who sees a key.

The standard library's client under it: a body is read from the socket in large pieces, which is
several times cheaper per byte than an event-driven parser. Rules on top:

- A secret header goes to the origin (scheme, host, port) of the first address only; a redirect to
  a content network is followed without it. A redirect from https to http is refused.
- Proxies come from the standard environment variables, `NO_PROXY` included.
- Every wait has a timeout, and `shut_down()` from another thread ends any read at once.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import httpx

from services.shared.errors import PullFailed, SourceUnavailable

MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BROKEN = (http.client.HTTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to ask, and what only that origin may see."""

    url: str
    secret_headers: Mapping[str, str] | None = None


class Reply:
    """An answer whose body has not been read. Close it, or leave its `with` block."""

    def __init__(self, response: http.client.HTTPResponse, session: Session, url: str) -> None:
        self._response = response
        self._session = session
        self.url = url
        self.status = response.status

    def header(self, name: str) -> str | None:
        """A header's value; names compare without case."""
        return self._response.headers.get(name)

    @property
    def content_length(self) -> int | None:
        """Bytes of the body as announced, where announced."""
        text = self.header("content-length")
        return int(text) if text and text.isdecimal() else None

    def read_some(self, limit_bytes: int) -> bytes:
        """What arrives next, at most so much; empty at the end. SourceUnavailable on a break."""
        try:
            return self._response.read1(limit_bytes)
        except _BROKEN as error:
            raise SourceUnavailable("the connection broke while reading") from error

    def read_all(self, limit_bytes: int) -> bytes:
        """A small body; PullFailed when it is larger than the limit."""
        parts: list[bytes] = []
        size = 0
        while part := self.read_some(min(65536, limit_bytes + 1)):
            parts.append(part)
            size += len(part)
            if size > limit_bytes:
                raise PullFailed(f"the source sent more than {limit_bytes} bytes for a small file")
        if self.content_length is not None and size < self.content_length:
            raise SourceUnavailable("the connection broke while reading")
        return b"".join(parts)

    def close(self) -> None:
        """Let go; the connection is kept only when the body was read to its end."""
        if self._response.isclosed():
            return
        if self._response.length == 0:  # read to its end, which read1 of Python 3.11 overlooks
            self._response.close()
        else:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Session:
    """The connections of one thread, one per origin. Only `shut_down` may be called by others."""

    def __init__(self, *, timeout_seconds: float, user_agent: str = "spindll") -> None:
        self._timeout_seconds = timeout_seconds
        self._user_agent = user_agent
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._is_shut = False

    def get(self, address: Address, headers: Mapping[str, str] | None = None) -> Reply:
        """The answer after all redirects, whatever its status. SourceUnavailable when nobody
        answers, PullFailed for a redirect we do not follow."""
        first = urlsplit(address.url)
        url = address.url
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            secrets = address.secret_headers if _origin(parts) == _origin(first) else None
            reply = self._get_once(url, parts, {**(headers or {}), **(secrets or {})})
            target = reply.header("location")
            if reply.status not in _REDIRECTS or not target:
                return reply
            with reply:
                reply.read_all(1 << 20)
            url = _redirected(url, target)
        raise PullFailed("the source redirects in circles")

    def close(self) -> None:
        """Close the connections; the next `get` makes new ones."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def shut_down(self) -> None:
        """End whatever this session does, for good; from any thread."""
        self._is_shut = True
        for connection in list(self._connections.values()):
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _get_once(self, url: str, parts: SplitResult, headers: Mapping[str, str]) -> Reply:
        # A kept connection may have been closed by the peer in the meantime: once more, afresh.
        for is_last in (False, True):
            connection, target, extra, was_kept = self._connection(url, parts)
            fields = {
                "User-Agent": self._user_agent,
                "Accept-Encoding": "identity",
                "Accept": "*/*",
            }
            try:
                connection.request("GET", target, headers={**fields, **extra, **headers})
                if self._is_shut:  # it ran before there was a socket to break
                    raise ConnectionAbortedError
                return Reply(connection.getresponse(), self, url)
            except _BROKEN as error:
                self.close()
                if is_last or not was_kept or self._is_shut or isinstance(error, TimeoutError):
                    raise SourceUnavailable(f"{parts.hostname} does not answer") from error
        raise AssertionError("unreachable")

    def _connection(
        self, url: str, parts: SplitResult
    ) -> tuple[http.client.HTTPConnection, str, dict[str, str], bool]:
        proxy = _proxy_for(parts)
        via_proxy = proxy is not None and parts.scheme == "http"
        target = (
            url if via_proxy else (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        )
        extra = _proxy_auth(proxy) if via_proxy and proxy else {}
        origin = _origin(parts)
        connection = self._connections.get(origin)
        if connection is not None and connection.sock is not None:
            return connection, target, extra, True
        connection = self._connect(parts, proxy)
        self._connections[origin] = connection
        return connection, target, extra, False

    def _connect(self, parts: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
        try:
            host, port = parts.hostname or "", parts.port
            if proxy is None:
                if parts.scheme == "https":
                    return http.client.HTTPSConnection(
                        host, port, timeout=self._timeout_seconds, context=_tls()
                    )
                return http.client.HTTPConnection(host, port, timeout=self._timeout_seconds)
            via, via_port = proxy.hostname or "", proxy.port or 80
            if parts.scheme == "http":
                return http.client.HTTPConnection(via, via_port, timeout=self._timeout_seconds)
            tunnel = http.client.HTTPSConnection(
                via, via_port, timeout=self._timeout_seconds, context=_tls()
            )
            tunnel.set_tunnel(host, port or 443, headers=_proxy_auth(proxy))
        except ValueError as error:
            raise PullFailed("the source's address is not well formed") from error
        return tunnel


def retry_after_seconds(reply: Reply, *, at_most: float) -> float | None:
    """What the Retry-After header asks for in seconds; dates are answered with the maximum."""
    text = reply.header("retry-after")
    if text is None:
        return None
    return min(float(text), at_most) if text.strip().isdecimal() else at_most


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    if urlsplit(target).scheme not in ("http", "https"):
        raise PullFailed("the source redirects to something that is not http")
    if url.startswith("https:") and not target.startswith("https:"):
        raise PullFailed("the source redirects from https to plain http")
    return target


def _origin(parts: SplitResult) -> tuple[str, str]:
    return parts.scheme, parts.netloc.lower()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # SSL_CERT_FILE, else the bundled authorities


def _proxy_for(parts: SplitResult) -> SplitResult | None:
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(parts.scheme) or proxies.get("all")
    return urlsplit(url if "://" in url else f"http://{url}") if url else None


def _proxy_auth(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
