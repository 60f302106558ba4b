"""A service that follows a script: `python scripted_service.py JSON`.

The script has these keys:

name            the name of the service
socket          listen on this unix socket
port            answer HTTP requests on this port with status 200
children        start this number of processes that sleep
ignores_sigterm ignore SIGTERM
prints, exits   print this text, then exit with this status
trace           append "start NAME" and "stop NAME" to this file
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Always200(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


def main(script: dict[str, object]) -> None:
    name = str(script["name"])
    _trace(script, f"start {name}")
    if "prints" in script:
        print(script["prints"], flush=True)
    if "exits" in script:
        sys.exit(int(str(script["exits"])))
    for _ in range(int(str(script.get("children", 0)))):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if "socket" in script:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(script["socket"]))
        listener.listen()
    if "port" in script:
        server = HTTPServer(("127.0.0.1", int(str(script["port"]))), Always200)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if script.get("ignores_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(_trace(script, f"stop {name}")))
    while True:
        signal.pause()


def _trace(script: dict[str, object], text: str) -> int:
    if "trace" in script:
        with Path(str(script["trace"])).open("a") as file:
            file.write(text + "\n")
    return 0


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
