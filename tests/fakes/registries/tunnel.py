"""A proxy on loopback that tunnels TLS: CONNECT, with a user and a password."""

from __future__ import annotations

import base64
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class TunnelProxy:
    """Counts its tunnels in `targets`; connects every one to the port that the client names."""

    def __init__(self, user: str, password: str) -> None:
        self.targets: list[str] = []
        expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        outer = self

        class OwnHandler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                if self.headers.get("proxy-authorization") != expected:
                    self.send_error(407)
                    return
                outer.targets.append(self.path)
                port = int(self.path.rpartition(":")[2])
                with socket.create_connection(("127.0.0.1", port)) as target:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=_copy, args=(target, self.connection))
                    back.start()
                    _copy(self.connection, target)
                    back.join()
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), OwnHandler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
