"""`python -m bench.run` as a command: its errors and the files it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.results import read_csv
from tests.conftest import ROOT, TINY_GGUF


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_an_unknown_scenario_is_reported_with_the_known_ones() -> None:
    done = run_bench("throughput", "nonsense")

    assert done.returncode == 1
    assert "no such scenario: nonsense; there are throughput, stall" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_writes_numbers_a_report_and_a_plot(tmp_path: Path) -> None:
    done = run_bench(
        "--quick", "--model", str(TINY_GGUF), "--out", str(tmp_path), "wire", "drafting"
    )

    assert done.returncode == 0, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".svg"]
    measurements, metadata = read_csv(next(tmp_path.glob("*.csv")))
    wire = [m for m in measurements if m.scenario == "wire"]
    assert {m.case for m in wire} == {"16 streams", "64 streams"}
    assert {"cpu_us_per_token", "tokens_per_second"} <= {m.metric for m in wire}
    drafted = [m for m in measurements if m.metric == "drafted"]
    assert {m.server for m in drafted} == {"spindll", "without drafts"}
    assert {m.value for m in drafted if m.server == "without drafts"} == {0}
    assert metadata["model"] == TINY_GGUF.name
