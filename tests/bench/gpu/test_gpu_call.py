"""One call: units in processes of their own, and what becomes of one that ends badly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.gpu import call
from bench.gpu.results_file import Progress, State, open_progress
from bench.gpu.units import Unit

METADATA = {"device": "CPU", "is_dry": True}


def make_progress(folder: Path) -> Progress:
    return open_progress(folder, folder, METADATA, is_fresh=True)


def run(units: list[Unit], progress: Progress) -> list[str]:
    return call.run_units(units, progress, deadline=time.time() + 200, is_dry=True)


def test_a_unit_that_fails_does_not_stop_the_next_one(tmp_path: Path) -> None:
    bad = Unit("steps", {"model": "no-such-preset:F16", "kv_mode": "split", "tokens": 8}, False)
    good = Unit("device", {}, False)
    progress = make_progress(tmp_path)

    left = run([bad, good], progress)

    assert left == [bad.name]
    assert progress.outcomes[bad.name].state is State.FAILED
    assert "status 1: KeyError" in progress.outcomes[bad.name].reason
    assert progress.outcomes[good.name].state is State.DONE
    assert [m.metric for m in progress.results.measurements][:1] == ["total_mib"]


def test_a_unit_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    unit = Unit("device", {}, False)
    progress = make_progress(tmp_path)
    progress.set_outcome(unit.name, State.DONE)

    assert run([unit], progress) == []
    assert progress.results.measurements == []


def test_without_the_stack_its_units_are_skipped_by_name_of_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "list_missing_for_stack", lambda: ["rq", "redis-server"])
    unit = Unit("kill", {"model": "tiny-dense:F16"}, True)
    progress = make_progress(tmp_path)

    left = run([unit], progress)

    assert left == []
    assert progress.outcomes[unit.name].state is State.SKIPPED
    assert progress.outcomes[unit.name].reason == "missing: rq, redis-server"


def test_a_unit_that_reaches_the_end_of_the_call_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker is stopped at its first moment: half a second is less than its imports take.
    monkeypatch.setattr(call, "_STOP_SECONDS", 40.0)
    unit = Unit("steps", {"model": "tiny-dense:F16", "kv_mode": "split", "tokens": 16}, False)
    progress = make_progress(tmp_path)

    left = call.run_units([unit], progress, deadline=time.time() + 40.05, is_dry=True)

    assert left == [unit.name]
    assert progress.outcomes[unit.name].state is State.CUT_OFF
