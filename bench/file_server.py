"""A file server for benchmarks of downloads: ranges, TLS, a late first byte, a slow line.

    python -m bench.file_server FILE [--tls FOLDER] [--first-byte-ms 300] [--megabytes-per-second 25]

It prints its port and ends when standard input closes. FOLDER has the ca.pem and key.pem of
tests/fakes/registries/authority.py. The speed is that of each connection.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
from pathlib import Path

_RANGE = re.compile(rb"range: bytes=(\d+)-(\d+)", re.IGNORECASE)
_CHUNK_BYTES = 1 << 18


class FileServer(socketserver.ThreadingTCPServer):
    """Serves one file under every path."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        path: Path,
        *,
        tls: ssl.SSLContext | None = None,
        first_byte_seconds: float = 0.0,
        bytes_per_second: float | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.file = path.open("rb")
        self.size = path.stat().st_size
        self.tls = tls
        self.first_byte_seconds = first_byte_seconds
        self.bytes_per_second = bytes_per_second

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client may leave at any time."""


class _Handler(socketserver.StreamRequestHandler):
    server: FileServer

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.server.tls is not None:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        while head := self._read_head():
            start, end, status = 0, self.server.size - 1, b"200 OK"
            extra = b""
            if match := _RANGE.search(head):
                start, end, status = int(match[1]), int(match[2]), b"206 Partial Content"
                extra = b"Content-Range: bytes %d-%d/%d\r\n" % (start, end, self.server.size)
            time.sleep(self.server.first_byte_seconds)
            self.connection.sendall(
                b'HTTP/1.1 %s\r\nETag: "zeros"\r\nContent-Length: %d\r\n%s\r\n'
                % (status, end - start + 1, extra)
            )
            if self.server.tls is None and self.server.bytes_per_second is None:
                self._send_file(start, end + 1)
            else:
                self._send_chunks(start, end + 1)

    def _send_file(self, start: int, stop: int) -> None:
        while start < stop:
            start += os.sendfile(
                self.connection.fileno(), self.server.file.fileno(), start, stop - start
            )

    def _send_chunks(self, start: int, stop: int) -> None:
        first, started, speed = start, time.perf_counter(), self.server.bytes_per_second
        while start < stop:
            size = min(_CHUNK_BYTES, stop - start)
            data = os.pread(self.server.file.fileno(), size, start)
            self.connection.sendall(data)
            start += size
            if speed is not None:
                due = started + (start - first) / speed
                time.sleep(max(0.0, due - time.perf_counter()))

    def _read_head(self) -> bytes:
        head = b""
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            head += line
        return head


def load_tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--first-byte-ms", type=float, default=0.0)
    parser.add_argument("--megabytes-per-second", type=float)
    options = parser.parse_args()
    speed = options.megabytes_per_second
    server = FileServer(
        options.file,
        tls=load_tls(options.tls) if options.tls else None,
        first_byte_seconds=options.first_byte_ms / 1000,
        bytes_per_second=speed * 1e6 if speed else None,
    )
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
