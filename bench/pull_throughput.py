"""Compare the throughput of a verified download with curl, for the same sparse file on loopback.

    python -m bench.pull_throughput [--gigabytes 4] [--rounds 3] [--connections 4] [--dir /tmp]

Rounds are interleaved. The puller's download includes sha256, fsync and the rename into the store.
curl only writes a file, so `curl, then sha256sum` is measured too. The file server is a separate
process that sends with sendfile. Peak memory is that of the downloading process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

_RANGE = re.compile(rb"range: bytes=(\d+)-(\d+)", re.IGNORECASE)


class SparseServer(socketserver.ThreadingTCPServer):
    """Serves one sparse file, with range requests, by sendfile."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.file = path.open("rb")
        self.size = path.stat().st_size


class _Handler(socketserver.StreamRequestHandler):
    server: SparseServer

    def handle(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := self._read_head():
            start, end, status = 0, self.server.size - 1, b"200 OK"
            extra = b""
            if match := _RANGE.search(head):
                start, end, status = int(match[1]), int(match[2]), b"206 Partial Content"
                extra = b"Content-Range: bytes %d-%d/%d\r\n" % (start, end, self.server.size)
            self.connection.sendall(
                b'HTTP/1.1 %s\r\nETag: "zeros"\r\nContent-Length: %d\r\n%s\r\n'
                % (status, end - start + 1, extra)
            )
            while start <= end:
                try:
                    start += os.sendfile(
                        self.connection.fileno(), self.server.file.fileno(), start, end - start + 1
                    )
                except OSError:
                    return

    def _read_head(self) -> bytes:
        head = b""
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            head += line
        return head


def download(url: str, size: int, folder: Path, connections: int) -> None:
    """Download as a pull worker does, and print seconds, CPU seconds and peak memory as JSON."""
    from services.puller.download.download import Download
    from services.puller.download.partial_file import PartialFile
    from services.puller.download.retry import RetryPolicy
    from services.puller.download.throttle import Throttle
    from services.puller.transport.address import Address
    from services.puller.transport.session_pool import SessionPool
    from services.shared.store.model_store import ModelStore

    store = ModelStore(folder)
    path = store.blobs.partial_path("sha256:" + "0" * 64)
    started = time.perf_counter()
    partial = PartialFile.lock(path)
    assert partial is not None
    run = Download(
        partial,
        Address(url),
        size,
        has_digest=True,
        connections=connections,
        sessions=SessionPool(timeout_seconds=30.0),
        retry_policy=RetryPolicy(),
        throttle=Throttle(),
        on_progress=lambda _done: None,
    )
    computed = run.run()
    verified_seconds = time.perf_counter() - started
    blob = store.blobs.commit(path, computed=computed)
    partial.close()
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    store.blobs.path(blob.digest).unlink()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "verified_seconds": verified_seconds,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_mib": usage.ru_maxrss / 1024,
            }
        )
    )


def run_timed(command: list[str]) -> tuple[float, str]:
    """Run a command; returns its seconds and its stdout."""
    started = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - started, output


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--download", nargs=2, metavar=("URL", "SIZE"))
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.download:
        url, size = options.download
        download(url, int(size), options.dir, options.connections)
    else:
        compare(options)


def serve(path: Path) -> None:
    """Serve the file, print the port, and exit when stdin closes."""
    server = SparseServer(path)
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


def compare(options: argparse.Namespace) -> None:
    """Start the file server and run all rounds."""
    size = int(options.gigabytes * 10**9)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        source = folder / "sparse"
        with source.open("wb") as file:
            file.truncate(size)
        command = [sys.executable, "-m", "bench.pull_throughput"]
        server = subprocess.Popen(
            [*command, "--serve", str(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/file"
        try:
            run_rounds(options, url, size, folder, command)
        finally:
            server.kill()
            server.wait()


def run_rounds(
    options: argparse.Namespace, url: str, size: int, folder: Path, command: list[str]
) -> None:
    """Measure curl and the puller in every round, and print the medians."""
    curl, curl_hashed, stored, verified, peak_mib, cpu_seconds = [], [], [], [], [], []
    target = folder / "curl"
    for _ in range(options.rounds):
        seconds, _ = run_timed(["curl", "-sSf", "-o", str(target), url])
        curl.append(size / seconds / 1e6)
        hash_seconds, _ = run_timed(["sha256sum", str(target)])
        curl_hashed.append(size / (seconds + hash_seconds) / 1e6)
        target.unlink()
        download_options = ["--dir", str(folder), "--connections", str(options.connections)]
        _, output = run_timed([*command, *download_options, "--download", url, str(size)])
        result = json.loads(output)
        stored.append(size / result["seconds"] / 1e6)
        verified.append(size / result["verified_seconds"] / 1e6)
        peak_mib.append(result["peak_mib"])
        cpu_seconds.append(result["cpu_seconds"])
    median = statistics.median
    print(f"file                     {size / 1e9:.1f} GB, {options.rounds} rounds, medians")
    print(f"curl                     {median(curl):8.0f} MB/s")
    print(f"curl, then sha256sum     {median(curl_hashed):8.0f} MB/s")
    print(f"puller, verified         {median(verified):8.0f} MB/s")
    print(
        f"puller, verified + fsync {median(stored):8.0f} MB/s"
        f"  ({median(cpu_seconds):.1f} CPU seconds)"
    )
    print(f"ratio to curl            {median(verified) / median(curl):8.2f}")
    print(f"ratio, fsync included    {median(stored) / median(curl):8.2f}")
    print(f"peak memory              {max(peak_mib):8.0f} MiB")


if __name__ == "__main__":
    main()
