"""One call: the units that are left, each in a process of its own, until the time is up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from bench.gpu.needs import BUILD, ROOT, list_missing_for_stack
from bench.gpu.results_file import Progress, State
from bench.gpu.unit_worker import MEASUREMENT_MARK, NOTE_MARK, SKIP_MARK, SKIPPED_STATUS
from bench.gpu.units import Unit
from bench.results import Measurement

UNIT_SECONDS = 420.0  # a unit that takes longer hangs
# With less time left, no further unit begins.
_SHORTEST_SECONDS, _SHORTEST_STACK_SECONDS = 30.0, 90.0
_STOP_SECONDS = 15.0  # for the servers of a unit that is stopped


def run_units(
    units: Iterable[Unit], progress: Progress, *, deadline: float, is_dry: bool
) -> list[str]:
    """Run the units that are left until `deadline`, on the clock of `time.time`.

    Returns the names of those that a further call must run.
    """
    listed = list(units)
    missing = list_missing_for_stack()
    for unit in listed:
        if not progress.is_left(unit.name):
            continue
        if unit.needs_stack and missing:
            reason = f"missing: {', '.join(missing)}"
            progress.set_outcome(unit.name, State.SKIPPED, reason=reason)
            continue
        left = deadline - time.time()
        if left < (_SHORTEST_STACK_SECONDS if unit.needs_stack else _SHORTEST_SECONDS):
            break
        print(f"== {unit.name} ({left:.0f} s left)", flush=True)
        _run_unit(unit, progress, deadline=deadline, is_dry=is_dry)
    return [u.name for u in listed if progress.is_left(u.name) and not _is_skipped(progress, u)]


def _is_skipped(progress: Progress, unit: Unit) -> bool:
    outcome = progress.outcomes.get(unit.name)
    return outcome is not None and outcome.state is State.SKIPPED


def _run_unit(unit: Unit, progress: Progress, *, deadline: float, is_dry: bool) -> None:
    command = [sys.executable, "-m", "bench.gpu.unit_worker"]
    command += [unit.item, json.dumps(dict(unit.case)), *(["--dry"] if is_dry else [])]
    progress.begin()
    began = time.time()
    limit = min(UNIT_SECONDS, deadline - began - _STOP_SECONDS)
    log = _log_path(unit)
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        ) as process,
    ):
        timers = [
            threading.Timer(limit, process.terminate),
            threading.Timer(limit + _STOP_SECONDS, _kill_group, (process.pid,)),
        ]
        for timer in timers:
            timer.start()
        try:
            reason = _take_results(process, progress)
            status = process.wait()
        finally:
            for timer in timers:
                timer.cancel()
            if process.poll() is None:  # this call is interrupted
                process.terminate()
    state, reason = _judge(status, reason, log, is_late=time.time() >= began + limit, limit=limit)
    progress.set_outcome(unit.name, state, seconds=time.time() - began, reason=reason)
    if state is State.FAILED:
        print(f"failed: {reason}", flush=True)


def _judge(
    status: int, reason: str, log: Path, *, is_late: bool, limit: float
) -> tuple[State, str]:
    """The state of a unit whose worker has ended, and the reason for it."""
    if status == 0:
        return State.DONE, ""
    if status == SKIPPED_STATUS:
        return State.SKIPPED, reason
    if is_late and limit < UNIT_SECONDS:
        return State.CUT_OFF, ""
    if is_late:
        return State.FAILED, f"no end within {UNIT_SECONDS:.0f} s"
    return State.FAILED, f"status {status}: {_read_end(log)}"


def _take_results(process: subprocess.Popen[str], progress: Progress) -> str:
    """Take what the worker reports until its output ends; returns why it skips, if it does."""
    reason = ""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(MEASUREMENT_MARK):
            progress.add(Measurement(**json.loads(line.removeprefix(MEASUREMENT_MARK))))
        elif line.startswith(NOTE_MARK):
            progress.add_note(json.loads(line.removeprefix(NOTE_MARK)))
        elif line.startswith(SKIP_MARK):
            reason = json.loads(line.removeprefix(SKIP_MARK))
        else:
            print(line, end="", flush=True)
    return reason


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _log_path(unit: Unit) -> Path:
    folder = BUILD / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    case = "-".join(str(value).replace("/", "-") for value in unit.case.values())
    return folder / f"{unit.item}-{case}.log".replace(" ", "-")


def _read_end(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
