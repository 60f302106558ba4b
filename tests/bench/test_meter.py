"""CPU seconds and memory of a process tree."""

from __future__ import annotations

import subprocess
import sys

from bench.meter import Meter, resident_bytes

# A parent whose child uses 0.3 CPU seconds per input line and then prints "done".
_CHILD = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    print("done", flush=True)
"""
_PARENT = (
    "import subprocess, sys; "
    f"sys.exit(subprocess.run([sys.executable, '-c', {_CHILD!r}, 'services.api']).returncode)"
)


def test_the_cpu_time_of_a_child_counts_under_its_role() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.stdout.readline()
        with Meter(process.pid) as meter:
            process.stdin.write(b"go\n")
            process.stdin.flush()
            process.stdout.readline()
        memory = resident_bytes(process.pid)
        process.stdin.close()

    assert meter.usage.cpu_seconds["api"] >= 0.2
    assert meter.usage.total_cpu_seconds >= meter.usage.cpu_seconds["api"]
    assert memory > 1 << 20


def test_an_ended_process_uses_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    with Meter(process.pid) as meter:
        pass

    assert meter.usage.total_cpu_seconds == 0
    assert resident_bytes(process.pid) == 0
