"""Check that a Mac can install every locked package without a compiler.

    python -m tools.mac_wheels [3.12 …]

For each Python it takes from the lock files what the markers select on macOS 14 on arm64, and lets
pip download that as wheels, with the hashes of the lock files, from the index that pip is
configured for. It downloads about 250 MB in all; pip caches them. Exit status 1 if a wheel is missing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("local", "mlx", "redis")
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORM = "macosx_14_0_arm64"
# The set-up unpacks this one without importing it, so it takes the wheel of one Python.
PYTHON_OF_LOCK = {"redis": "3.11"}


def main(pythons: Sequence[str]) -> int:
    """Check every lock file for every Python, and print a line for each."""
    failures = 0
    for python in pythons:
        for lock in LOCKS:
            text = (ROOT / "locks" / f"{lock}.lock").read_text()
            chosen = select_for_mac(text, python)
            error = find_missing_wheel(chosen, PYTHON_OF_LOCK.get(lock, python))
            failures += error is not None
            verdict = error or f"{len(chosen)} packages, a wheel for each"
            print(f"Python {python}, {lock}.lock: {verdict}", flush=True)
    return 1 if failures else 0


def select_for_mac(lock: str, python: str) -> list[str]:
    """The requirements with their hashes, without markers, that apply on a Mac."""
    environment = {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "platform_machine": "arm64",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "python_version": python,
        "python_full_version": f"{python}.9",
    }
    chosen = []
    for entry in lock.replace("\\\n", " ").splitlines():
        pinned, *hashes = entry.split(" --hash=")
        if not pinned.strip() or pinned.startswith("#"):
            continue
        requirement = Requirement(pinned)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            chosen.append(" ".join([str(requirement), *(f"--hash={h.strip()}" for h in hashes)]))
    return chosen


def find_missing_wheel(requirements: Sequence[str], python: str) -> str | None:
    """What pip says about a wheel that is missing; None when it finds all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-input", "--require-hashes"]
        command += ["--only-binary", ":all:", "--platform", PLATFORM, "--python-version", python]
        command += ["--dest", folder, "--requirement", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or ["pip failed"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or PYTHONS))
