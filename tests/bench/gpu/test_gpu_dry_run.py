"""`python -m bench.gpu --dry` measures every item on the CPU, with a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.scale import DRY
from bench.gpu.units import ITEMS, list_units, load_item
from bench.results import read_csv
from tests.conftest import ROOT

RAW = [item for item in ITEMS if not load_item(item).NEEDS_STACK]
STACK = [item for item in ITEMS if load_item(item).NEEDS_STACK]


def run_dry(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gpu", "--dry", "--out", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100)


def check_complete(folder: Path, items: list[str]) -> dict[str, set[str]]:
    """Check that each unit is done; returns the metrics of each item."""
    measurements, metadata = read_csv(next(folder.glob("*-gpu.csv")))
    units = metadata["units"]
    assert isinstance(units, dict)
    assert {name: unit["state"] for name, unit in units.items()} == {
        unit.name: "done" for unit in list_units(items, DRY)
    }
    names = {load_item(item).NAME: item for item in items}
    metrics: dict[str, set[str]] = {item: set() for item in items}
    for m in measurements:
        metrics[names[m.scenario.split()[0]]].add(m.metric)
    return metrics


@pytest.mark.timeout(540)
def test_a_dry_run_measures_every_item_without_a_stack(tmp_path: Path) -> None:
    done = run_dry(tmp_path, "--only", *RAW)

    assert done.returncode == 0, done.stdout + done.stderr
    metrics = check_complete(tmp_path, RAW)
    assert all(metrics.values())
    assert {"promised_mib", "measured_mib", "left_after_exit_mib"} <= metrics["offload"]
    assert {"step_ms", "one_output_step_ms", "tokens_per_second"} <= metrics["steps"]
    assert {"one_thread_ms", "pool_ms"} <= metrics["sampling"]
    measurements, _ = read_csv(next(tmp_path.glob("*-gpu.csv")))
    steps = {m.server for m in measurements if m.scenario.startswith("steps")}
    assert steps == {f"{mode}, flash {x}" for mode in ("unified", "split") for x in ("on", "off")}
    # The chain on the device was applied: a row has its 128 candidates.
    candidates = {m.server: m.value for m in measurements if m.metric == "candidates"}
    assert candidates == {"all logits": 0, "top_k 128 on the device": 128}
    report = next(tmp_path.glob("*-gpu.md")).read_text()
    assert report in done.stdout
    assert "| 2 sequences of 16 | step_ms |" in report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_dry_run_measures_every_item_with_the_stack(tmp_path: Path) -> None:
    done = run_dry(tmp_path, "--minutes", "18", "--only", *STACK)

    assert done.returncode == 0, done.stdout + done.stderr
    metrics = check_complete(tmp_path, STACK)
    assert all(metrics.values())
    assert {"error_after_ms", "next_answer_after_ms"} <= metrics["kill"]
    assert {"swap_first_token_ms", "loaded_first_token_ms"} <= metrics["eviction"]


def test_a_call_without_time_measures_nothing_and_says_what_is_left(tmp_path: Path) -> None:
    done = run_dry(tmp_path, "--only", "device", "--minutes", "0.1")

    assert done.returncode == 1
    assert "1 left, the next is device {}: run it again to continue" in done.stdout
    assert read_csv(next(tmp_path.glob("*-gpu.csv")))[0] == []


def test_an_unknown_item_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    done = run_dry(tmp_path, "--only", "nonsense")

    assert done.returncode == 1
    assert "no such item: nonsense; there are device, models, offload, steps" in done.stderr
