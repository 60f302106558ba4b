"""A service that does as its script says: `python scripted_service.py JSON`.

socket      listen on this unix socket
port        answer HTTP here: 200 on every path
children    start so many processes that sleep
stubborn    ignore SIGTERM
says, exits print this, then exit with this status
trace       append "start"/"stop" with our name to this file
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


class Fine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


def main(script: dict[str, object]) -> None:
    name = str(script["name"])
    _trace(script, f"start {name}")
    if "says" in script:
        print(script["says"], flush=True)
    if "exits" in script:
        sys.exit(int(str(script["exits"])))
    for _ in range(int(str(script.get("children", 0)))):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if "socket" in script:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(script["socket"]))
        listener.listen()
    if "port" in script:
        server = HTTPServer(("127.0.0.1", int(str(script["port"]))), Fine)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if script.get("stubborn"):
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
