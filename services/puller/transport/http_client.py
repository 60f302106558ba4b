"""An HTTP client for downloads: large reads, kept connections, and protected credentials.

It builds on the client of the standard library, which reads a body from the socket in large pieces.
That is several times cheaper per byte than an event-driven parser. It adds these rules:

- A secret header goes to the origin (scheme, host, port) of the first address only; a redirect to
  a content delivery network is followed without it. A redirect from https to http is refused.
- Proxies come from the standard environment variables, including `NO_PROXY`.
- Every wait has a timeout, and every call a longest duration (`watchdog.py`), whatever trickles in.
  `shut_down()` from another thread ends any read at once.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

import httpx2

from services.puller.transport.address import Address
from services.puller.transport.range_response import parse_size
from services.puller.transport.urls import find_origin, resolve_redirect, split_url
from services.puller.transport.watchdog import Watchdog
from services.shared.errors import PullFailed, SourceUnavailable

MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECT_SECONDS = 10.0
_MAX_CONNECT_SECONDS = 300.0  # to all addresses of a host, and its handshake
_MIN_BYTES_PER_SECOND = 8 << 10  # of a small body
_NOT_VALID_NOW = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED
_CONNECTION_ERRORS = (http.client.HTTPException, OSError, ValueError)
_WATCHDOG = Watchdog()


class Reply:
    """A response whose body has not been read yet. Close it, or use it in a `with` block."""

    def __init__(self, response: http.client.HTTPResponse, session: HttpSession, url: str) -> None:
        self._response = response
        self._session = session
        self.url = url
        self.status = response.status

    def header(self, name: str) -> str | None:
        """The value of a header; names are case-insensitive."""
        return self._response.headers.get(name)

    @property
    def content_length(self) -> int | None:
        """The announced size of the body in bytes, if there is one."""
        return parse_size(self.header("content-length"))

    def read_chunk(self, max_bytes: int) -> bytes:
        """Read what arrives next; empty at the end of the body.

        Raises SourceUnavailable when the connection breaks.
        """
        try:
            data = self._read_next(max_bytes)
        except _CONNECTION_ERRORS as error:
            raise SourceUnavailable("the connection broke while reading") from error
        if len(data) > max_bytes:  # http.client takes a negative size of a chunk at its word
            raise SourceUnavailable("the source sent a body that is not well formed")
        return data

    def _read_next(self, max_bytes: int) -> bytes:
        if not self._response.chunked:  # one read of the socket, which its timeout limits
            return self._response.read1(max_bytes)
        with self._session.limit_duration():  # a line before each chunk
            return self._response.read1(max_bytes)

    def read_all(self, max_bytes: int) -> bytes:
        """Read a small body. Raises PullFailed when it is larger than the limit."""
        parts: list[bytes] = []
        size = 0
        with self._session.limit_duration(max_bytes / _MIN_BYTES_PER_SECOND):
            while part := self.read_chunk(min(65536, max_bytes + 1)):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise PullFailed(
                        f"the source sent more than {max_bytes} bytes for a small file"
                    )
        if self.content_length is not None and size < self.content_length:
            raise SourceUnavailable("the connection broke while reading")
        return b"".join(parts)

    def close(self) -> None:
        """Release the connection; it is kept only when the body was read to its end."""
        if self._response.isclosed():
            return
        if self._response.length == 0:  # read to its end; read1 of Python 3.11 does not notice
            self._response.close()
        else:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpSession:
    """The connections of one thread, one per origin.

    Other threads may call `shut_down`, and nothing else.
    """

    def __init__(self, *, timeout_seconds: float, user_agent: str = "spindll") -> None:
        self._timeout_seconds = timeout_seconds
        self._user_agent = user_agent
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._is_shut = False
        self._is_connecting = False

    def get(self, address: Address, headers: Mapping[str, str] | None = None) -> Reply:
        """Return the response after all redirects, whatever its status.

        Raises SourceUnavailable when the host does not answer, and PullFailed for a redirect that
        is not allowed.
        """
        first = split_url(address.url)
        url = address.url
        for _ in range(MAX_REDIRECTS + 1):
            parts = split_url(url)
            secrets = address.secret_headers if find_origin(parts) == find_origin(first) else None
            reply = self._get_once(url, parts, {**(headers or {}), **(secrets or {})})
            target = reply.header("location")
            if reply.status not in _REDIRECTS or not target:
                return reply
            with reply:
                reply.read_all(1 << 20)
            url = resolve_redirect(url, target)
        raise PullFailed("the source redirects in circles")

    @property
    def is_connecting(self) -> bool:
        """Whether the thread waits for a name to resolve or a host to accept: nothing ends that."""
        return self._is_connecting

    @property
    def is_shut(self) -> bool:
        """Whether `shut_down` was called."""
        return self._is_shut

    def close(self) -> None:
        """Close the connections; the next `get` opens new ones."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def shut_down(self) -> None:
        """Abort the request in progress and all later ones; callable from any thread."""
        self._is_shut = True
        self._shut_sockets()

    def limit_duration(self, more_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Abort what this session does in the block when it lasts two timeouts and more."""
        return _WATCHDOG.limit(2 * self._timeout_seconds + more_seconds, self._shut_sockets)

    def _shut_sockets(self) -> None:
        for connection in list(self._connections.values()):
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket's own: after it, a reader would get the encrypted bytes.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _get_once(self, url: str, parts: SplitResult, headers: Mapping[str, str]) -> Reply:
        # The peer may have closed a kept connection in the meantime: retry once on a new one.
        for is_last in (False, True):
            connection, target, extra, is_reused = self._get_connection(url, parts)
            if not is_reused:
                self._open(connection, parts)
            fields = {
                "User-Agent": self._user_agent,
                "Accept-Encoding": "identity",
                "Accept": "*/*",
            }
            try:
                with self.limit_duration():
                    connection.request("GET", target, headers={**fields, **extra, **headers})
                    if self._is_shut:  # shut_down ran before there was a socket to close
                        raise ConnectionAbortedError
                    response = connection.getresponse()
                return Reply(response, self, url)
            except _CONNECTION_ERRORS as error:
                self.close()
                if is_last or not is_reused or self._is_shut or isinstance(error, TimeoutError):
                    message = describe_connection_error(parts.hostname or "", error)
                    raise SourceUnavailable(message) from error
        raise AssertionError("unreachable")

    def _open(self, connection: http.client.HTTPConnection, parts: SplitResult) -> None:
        # A host with several addresses, of which some lead nowhere, is tried one by one.
        connection.timeout = min(_CONNECT_SECONDS, self._timeout_seconds)
        self._is_connecting = True
        try:
            with _WATCHDOG.limit(_MAX_CONNECT_SECONDS, self._shut_sockets):
                connection.connect()
            connection.sock.settimeout(self._timeout_seconds)
        except _CONNECTION_ERRORS as error:
            self.close()
            message = describe_connection_error(parts.hostname or "", error)
            raise SourceUnavailable(message) from error
        finally:
            self._is_connecting = False

    def _get_connection(
        self, url: str, parts: SplitResult
    ) -> tuple[http.client.HTTPConnection, str, dict[str, str], bool]:
        proxy = _find_proxy(parts)
        via_proxy = proxy is not None and parts.scheme == "http"
        target = (
            url if via_proxy else (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        )
        extra = _build_proxy_headers(proxy) if via_proxy and proxy else {}
        origin = find_origin(parts)
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
                        host, port, timeout=self._timeout_seconds, context=tls_context()
                    )
                return http.client.HTTPConnection(host, port, timeout=self._timeout_seconds)
            via, via_port = proxy.hostname or "", proxy.port or 80
            if parts.scheme == "http":
                return http.client.HTTPConnection(via, via_port, timeout=self._timeout_seconds)
            tunnel = http.client.HTTPSConnection(
                via, via_port, timeout=self._timeout_seconds, context=tls_context()
            )
            tunnel.set_tunnel(host, port or 443, headers=_build_proxy_headers(proxy))
        except ValueError as error:
            raise PullFailed("the source's address is not well formed") from error
        return tunnel


def describe_connection_error(host: str, error: BaseException) -> str:
    """Why there is no connection to a host, as far as the operator can do something about it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _describe_certificate_error(host, cause.verify_code)
        cause = cause.__cause__ or cause.__context__
    return f"{host} does not answer"


def _describe_certificate_error(host: str, verify_code: int) -> str:
    if verify_code in _NOT_VALID_NOW:
        return f"the certificate of {host} is not valid now; check the clock of this machine"
    return (
        f"the certificate of {host} is not trusted; where a proxy inspects TLS, set SSL_CERT_FILE"
        " to a file with its authority"
    )


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """What this process trusts: SSL_CERT_FILE, else what the system trusts, as the hub's client."""
    return httpx2.create_ssl_context()


def _find_proxy(parts: SplitResult) -> SplitResult | None:
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    proxies = urllib.request.getproxies()
    url = proxies.get(parts.scheme) or proxies.get("all")
    return urlsplit(url if "://" in url else f"http://{url}") if url else None


def _build_proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
