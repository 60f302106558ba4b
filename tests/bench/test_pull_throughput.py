"""The benchmark of downloads runs, and its server keeps what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

from bench.file_server import FileServer
from bench.pull_throughput import SCENARIOS, Round, Scenario, describe
from services.puller.transport.address import Address
from services.puller.transport.http_client import HttpSession
from tests.conftest import ROOT


def test_every_scenario_has_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.pull_throughput", "--gigabytes", "0.002"]
    command += ["--rounds", "1", "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [scenario.name for scenario in SCENARIOS]
    assert [bool(re.search(r"\d of curl,", line)) for line in lines] == [True] * 3 + [False, True]
    assert re.search(r"\d of the line,", lines[3])
    assert list(tmp_path.iterdir()) == []


def test_the_ratio_includes_the_hash_and_the_fsync() -> None:
    took = Round(
        size=100_000_000,
        seconds=2.0,
        verified_seconds=1.0,
        cpu_seconds=0.5,
        peak_mib=60,
        curl_seconds=1.0,
        hash_seconds=1.0,
    )

    assert describe(Scenario("tls-1", 1, is_tls=True), [took]) == (
        "tls-1        50 MB/s, 0.50 of curl, 1.00 without fsync, 1.00 of curl and sha256sum,"
        " 0.5 CPU s, peak 60 MiB"
    )
    assert "0.50 of the line" in describe(Scenario("line", 4, is_line=True), [took])


def test_the_server_sends_the_requested_range(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    with FileServer(path, bytes_per_second=1e9) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        session = HttpSession(timeout_seconds=10)
        address = Address(f"http://127.0.0.1:{server.server_address[1]}/x")
        with session.get(address, {"Range": "bytes=1000-500999"}) as reply:
            body = reply.read_all(1 << 20)
        session.close()
        server.shutdown()
        server.file.close()

    assert (reply.status, body) == (206, path.read_bytes()[1000:501_000])
