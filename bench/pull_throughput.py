"""Compare the throughput of a verified download with curl, for the same sparse file on loopback.

    python -m bench.pull_throughput [--gigabytes 4] [--rounds 3] [--scenarios tls-1 tls-4] [--dir /tmp]

| scenario | question |
|-|-|
| http-4 | plain HTTP, four connections, beside curl |
| tls-1, tls-4 | TLS, one or four connections, beside curl |
| line | 300 ms to the first byte of each answer and 25 MB/s a connection: how much of four such connections is used |
| memory | TLS, four connections: the peak memory of a quarter of the file, and of all of it |

Rounds are interleaved, and each ratio is taken within a round. The puller's download includes
sha256, fsync and the rename into the store. curl has one connection and only writes a file, so
`curl, then sha256sum` is measured too. The file server is a process of its own. Peak memory is that
of the downloading process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FIRST_BYTE_MS = 300.0
LINE_MEGABYTES = 25.0


@dataclass(frozen=True)
class Scenario:
    name: str
    connections: int
    is_tls: bool = False
    is_line: bool = False  # slow: compared with the line, not with curl
    share: float = 1.0  # of the file's size

    @property
    def server_options(self) -> list[str]:
        if not self.is_line:
            return []
        line = str(LINE_MEGABYTES)
        return ["--first-byte-ms", str(FIRST_BYTE_MS), "--megabytes-per-second", line]


SCENARIOS = (
    Scenario("http-4", 4),
    Scenario("tls-1", 1, is_tls=True),
    Scenario("tls-4", 4, is_tls=True),
    Scenario("line", 4, is_line=True),
    Scenario("memory", 4, is_tls=True, share=0.25),
)


@dataclass(frozen=True)
class Round:
    """What one round of a scenario took."""

    size: int
    seconds: float
    verified_seconds: float
    cpu_seconds: float
    peak_mib: float
    curl_seconds: float | None = None
    hash_seconds: float = 0.0


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


@contextmanager
def serving(path: Path, folder: Path, scenario: Scenario) -> Iterator[str]:
    """The URL of the file from a server of the scenario's kind."""
    tls = ["--tls", str(folder)] if scenario.is_tls else []
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.file_server", str(path), *tls, *scenario.server_options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    scheme = "https" if scenario.is_tls else "http"
    try:
        yield f"{scheme}://127.0.0.1:{int(server.stdout.readline())}/file"
    finally:
        server.kill()
        server.wait()


def run_round(url: str, folder: Path, scenario: Scenario, size: int) -> Round:
    """One download by the puller, and one by curl where that is the comparison."""
    curl_seconds, hash_seconds = None, 0.0
    if not scenario.is_line:
        target = folder / "curl"
        ca = ["--cacert", str(folder / "ca.pem")] if scenario.is_tls else []
        curl_seconds, _ = run_timed(["curl", "-sSf", *ca, "-o", str(target), url])
        hash_seconds, _ = run_timed(["sha256sum", str(target)])
        target.unlink()
    command = [sys.executable, "-m", "bench.pull_throughput", "--dir", str(folder)]
    command += ["--connections", str(scenario.connections), "--download", url, str(size)]
    _, output = run_timed(command)
    return Round(
        size=size, curl_seconds=curl_seconds, hash_seconds=hash_seconds, **json.loads(output)
    )


def describe(scenario: Scenario, rounds: list[Round]) -> str:
    """The line about a scenario: medians."""
    median = statistics.median
    speed = median(r.size / r.seconds / 1e6 for r in rounds)
    facts = [f"{scenario.name:<8}{speed:7.0f} MB/s"]
    if scenario.is_line:
        line = scenario.connections * LINE_MEGABYTES
        facts.append(f"{median(r.size / r.seconds / 1e6 / line for r in rounds):.2f} of the line")
    elif curls := [(r, r.curl_seconds) for r in rounds if r.curl_seconds is not None]:
        facts.append(f"{median(curl / r.seconds for r, curl in curls):.2f} of curl")
        verified = median(curl / r.verified_seconds for r, curl in curls)
        facts.append(f"{verified:.2f} without fsync")
        hashed = median((curl + r.hash_seconds) / r.seconds for r, curl in curls)
        facts.append(f"{hashed:.2f} of curl and sha256sum")
    facts.append(f"{median(r.cpu_seconds for r in rounds):.1f} CPU s")
    facts.append(f"peak {max(r.peak_mib for r in rounds):.0f} MiB")
    return ", ".join(facts)


def compare(options: argparse.Namespace) -> None:
    """Run all scenarios, and print a line for each."""
    from tests.fakes.registries.authority import Authority

    chosen = [s for s in SCENARIOS if s.name in options.scenarios]
    results: dict[str, list[Round]] = {s.name: [] for s in chosen}
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        os.environ["SSL_CERT_FILE"] = str(Authority(folder).ca_file)  # for the downloads
        for _ in range(options.rounds):
            for scenario in chosen:
                size = int(options.gigabytes * 10**9 * scenario.share)
                source = folder / "sparse"
                with source.open("wb") as file:
                    file.truncate(size)
                with serving(source, folder, scenario) as url:
                    results[scenario.name].append(run_round(url, folder, scenario, size))
    print(f"{options.gigabytes:.2f} GB, {options.rounds} rounds, medians; curl has one connection")
    for scenario in chosen:
        print(describe(scenario, results[scenario.name]))


def main() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", choices=names, default=names)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--connections", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--download", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.download:
        url, size = options.download
        download(url, int(size), options.dir, options.connections)
    else:
        compare(options)


if __name__ == "__main__":
    main()
