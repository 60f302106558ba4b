"""A real HTTP server on loopback: files with ranges and ETags, and planned faults."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes.registries.faults import Fault, FaultPlan

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it was received."""

    path: str
    headers: dict[str, str]
    range: str | None


class LoopbackServer:
    """Serves files by path. Subclasses override `answer` for other paths."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.handler: Callable[[Handler, str], None] | None = None
        self.plan = FaultPlan()
        self.requests: list[RecordedRequest] = []
        self.sent_bytes = 0
        self.connections = 0
        self.opened = threading.Semaphore(0)  # released once for each request
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class OwnHandler(Handler):
            server_of = outer

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients of these tests may disconnect at any time

        self._server = Server(("127.0.0.1", 0), OwnHandler)
        self._scheme = "https" if tls else "http"
        if tls is not None:
            # The handshake happens at the first read, in the thread of the connection.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def answer(self, request: Handler, path: str) -> None:
        """Answer a GET with `handler`, if it is set, else from `files`."""
        if self.handler is not None:
            self.handler(request, path)
            return
        data = self.files.get(path)
        if data is None:
            request.reply(404, b'{"error":"not found"}')
        else:
            request.serve(data)

    def record(self, request: RecordedRequest) -> None:
        with self._lock:
            self.requests.append(request)
        self.opened.release()

    def count_connection(self) -> None:
        with self._lock:
            self.connections += 1

    def count(self, n_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += n_bytes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: LoopbackServer
    fault: Fault

    def setup(self) -> None:
        super().setup()
        self.server_of.count_connection()

    def do_GET(self) -> None:
        server, path = self.server_of, self.path
        headers = {k.lower(): v for k, v in self.headers.items()}
        server.record(RecordedRequest(path, headers, headers.get("range")))
        self.fault = server.plan.take(path)
        if self.fault.status is not None:
            extra = {"Retry-After": self.fault.retry_after, "RateLimit": self.fault.rate_limit}
            self.reply(self.fault.status, b"planned", {k: v for k, v in extra.items() if v})
            return
        server.answer(self, path.partition("?")[0])

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def redirect(self, location: str, status: int = 307) -> None:
        self.reply(status, b"", {"Location": location})

    def serve(self, data: bytes) -> None:
        fault = self.fault
        if fault.flip_at is not None:
            data = (
                data[: fault.flip_at] + bytes([data[fault.flip_at] ^ 1]) + data[fault.flip_at + 1 :]
            )
        etag = f'"{hashlib.md5(data).hexdigest()}"' if fault.etag is None else fault.etag
        size = len(data) + fault.length_off_by
        match = _RANGE.fullmatch(self.headers.get("range") or "")
        if_range = self.headers.get("if-range")
        if match is None or fault.ignores_range or (if_range is not None and if_range != etag):
            self._send(200, data, size, {"ETag": etag} if etag else {})
            return
        start, end = int(match[1]), int(match[2] or len(data) - 1)
        if start >= size:
            self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        body = data[start : end + 1]
        if fault.shifts_range:
            start += 1
        last = start + len(body) - 1
        headers = {"Content-Range": f"bytes {start}-{last}/{size}"}
        self._send(206, body, len(body), headers | ({"ETag": etag} if etag else {}))

    def _send(self, status: int, body: bytes, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = self.fault
        if fault.drips:
            self._drip(body)
            return
        stop = min(x for x in (fault.cut_at, fault.stall_at, len(body)) if x is not None)
        self.server_of.count(stop)
        with contextlib.suppress(OSError):
            self.wfile.write(body[:stop])
        if fault.stall_at is not None:
            self._wait_for_leaving()
        if stop < length:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _drip(self, body: bytes) -> None:
        for i in range(len(body)):
            if self.server_of.stopping.wait(0.02):
                break
            try:
                self.wfile.write(body[i : i + 1])
            except OSError:
                break
        self.close_connection = True

    def _wait_for_leaving(self) -> None:
        self.connection.settimeout(0.1)
        while not self.server_of.stopping.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def log_message(self, *args: object) -> None:
        pass
