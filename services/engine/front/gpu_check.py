"""Find out which GPUs llama.cpp can use, once, before anything is loaded.

The front links no llama.cpp, and a GPU's driver may end the process that asks it. So a child
process reports (runner/gpu_report.py). Loads are planned on the devices of its report.

A GPU that cannot be used is logged, and reported by Health and Loaded while the engine runs. Where
a GPU is required and none can be used, every load is refused; otherwise models use main memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from services.engine.core import Device
from services.engine.front.process.visible_devices import order_devices
from services.engine.gpu import GpuReport, find_gpu_problem, list_usable_devices

REPORT_COMMAND = (sys.executable, "-m", "services.engine.runner.gpu_report")

TIMEOUT_SECONDS = 60.0  # a driver that wakes eight GPUs takes several seconds
_KILL_SECONDS = 5.0
_ATTEMPTS = 3
RETRY_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuCheck:
    """The result. The default: nothing was checked, and there is nothing to report."""

    devices: tuple[Device, ...] = ()  # that loads are planned on, in llama.cpp's order
    problem: str | None = None  # set where a GPU is required and `devices` is empty
    is_required: bool = False

    @property
    def problems(self) -> tuple[str, ...]:
        """For Health and Loaded."""
        return (f"GPU: {self.problem}",) if self.problem else ()

    @property
    def refusal(self) -> str | None:
        """Why no model may be loaded; None: models may be loaded."""
        if self.devices or not self.is_required:
            return None
        return f"no usable GPU: {self.problem}"


def check_gpu(
    *,
    is_required: bool,
    command: Sequence[str] = REPORT_COMMAND,
    timeout_seconds: float = TIMEOUT_SECONDS,
    retry_seconds: float = RETRY_SECONDS,
) -> GpuCheck:
    """Check, and log the GPUs and a problem. Blocks for about a second."""
    report = _read_report(command, timeout_seconds, retry_seconds)
    if report is None:
        devices: tuple[Device, ...] = ()
        problem: str | None = "the check of the GPUs failed: see the log of the engine"
    else:
        devices = list_usable_devices(report)
        # A machine without a GPU has no problem, unless it should have one.
        problem = find_gpu_problem(report) if is_required or report.gpus else None
    if devices:
        logger.info("GPUs", extra={"devices": [f"{d.name} ({d.label})" for d in devices]})
    check = GpuCheck(devices, problem, is_required)
    if problem is not None:
        level = logging.ERROR if check.refusal else logging.WARNING
        logger.log(level, "a GPU cannot be used", extra={"reason": problem})
    return check


def _read_report(
    command: Sequence[str], timeout_seconds: float, retry_seconds: float
) -> GpuReport | None:
    """The report of the child process; None when it gives none, which is logged."""
    try:
        # The last line: libraries may have written before it.
        line = _run(command, timeout_seconds, retry_seconds).rstrip().rpartition(b"\n")[2]
        return msgspec.json.decode(line, type=GpuReport)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        logger.error("no GPU report", extra={"reason": str(error)})
        return None


def _run(command: Sequence[str], timeout_seconds: float, retry_seconds: float) -> bytes:
    """The output of the program. It is run again when a signal has ended it.

    CUDA aborts on a GPU whose memory is full, as it may be for a moment after a crash of this
    engine, until the driver has freed the memory of its runners.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        done = _run_once(command, timeout_seconds)
        if done.returncode >= 0 or attempt == _ATTEMPTS:
            break
        time.sleep(retry_seconds)
    done.check_returncode()
    return done.stdout


def _run_once(command: Sequence[str], timeout_seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Like subprocess.run, which waits without end for a process that hangs in the driver."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=order_devices(os.environ),
    )
    assert child.stdout is not None
    with child.stdout:
        try:
            output, _ = child.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_KILL_SECONDS)
            raise
    return subprocess.CompletedProcess(command, child.returncode, output)
