"""Find a wheel of llama-cpp-python, or compile one from the hash-pinned source.

A compiled wheel is kept in build/wheels/<identity>/, so that another set-up, such as after .venv
was deleted, does not compile it again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

from services.cli.install.command_runner import CommandRunner
from services.cli.install.progress_line import ProgressLine
from services.cli.install.setup_errors import SetupError

BYTES_PER_COMPILER = 3 << 29  # llama.cpp's largest files take about 1.5 GB each to compile
PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")


def build_identity(root: Path) -> str:
    """A folder name that changes with everything that the compiled wheel depends on."""
    parts = (
        (root / "locks" / "llama.lock").read_text(),
        os.environ.get("CMAKE_ARGS", ""),
        platform.system(),
        platform.machine(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class LlamaWheel:
    """Finds, compiles and installs the wheel. `python` is the interpreter of .venv."""

    def __init__(
        self, root: Path, python: str, progress: ProgressLine, commands: CommandRunner
    ) -> None:
        self._root = root
        self._python = python
        self._progress = progress
        self._commands = commands
        self._lock = root / "locks" / "llama.lock"
        self._wheels = root / "build" / "wheels" / build_identity(root)

    def find(self) -> Path | None:
        """A wheel that was compiled before, or one in ./wheels or in pip's find-links.

        A package index is not used.
        """
        if found := self._wheel():
            return found
        if os.environ.get("CMAKE_ARGS"):
            return None  # a build with these options is requested
        local = self._root / "wheels"
        links = ["--find-links", str(local)] if local.is_dir() else []
        self._wheels.mkdir(parents=True, exist_ok=True)
        self._progress.begin("looking for a llama-cpp-python wheel")
        self._commands.attempt(
            [self._python, "-m", "pip", "download", *PIP_OPTIONS, "--no-deps", "--no-index"]
            + ["--only-binary", ":all:", *links, "--dest", str(self._wheels), self._requirement]
        )
        found = self._wheel()
        self._progress.end("found" if found else "not found")
        return found

    def require_compiler(self) -> None:
        """Raise SetupError when there is no compiler, before the downloads begin."""
        missing = [
            name
            for variable, name in (("CC", "cc"), ("CXX", "c++"))
            if shutil.which(os.environ.get(variable, name).split()[0]) is None
        ]
        if missing:
            raise SetupError(
                f"llama.cpp must be compiled, but there is no {' and no '.join(missing)}"
                " (Debian, Ubuntu: apt install build-essential; Mac: xcode-select --install)"
            )

    def compile(self) -> Path:
        """Compile the wheel with the pinned CMake and Ninja of locks/build.lock."""
        tools = self._make_tools()
        jobs = _compiler_jobs()
        self._progress.print_line(
            "llama.cpp is compiled once; this takes 10 to 20 minutes on a small computer."
        )
        self._progress.begin(f"compiling llama.cpp, {jobs} files at a time")
        self._commands.run(
            [str(tools / "python"), "-m", "pip", "wheel", *PIP_OPTIONS, "--verbose", "--no-deps"]
            + ["--require-hashes", "--no-binary", "llama-cpp-python", "--no-build-isolation"]
            + ["--wheel-dir", str(self._wheels), "--requirement", str(self._lock)],
            env={
                "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
                "PATH": os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)]),
            },
        )
        self._progress.end("done")
        wheel = self._wheel()
        assert wheel is not None, "pip wheel succeeded without a wheel"
        return wheel

    def install(self, wheel: Path) -> None:
        """Install the wheel into .venv; it replaces any other build."""
        self._progress.begin("installing llama.cpp")
        self._commands.run(
            [self._python, "-m", "pip", "install", *PIP_OPTIONS, "--no-deps", "--no-index"]
            + ["--force-reinstall", str(wheel)]
        )
        self._progress.end("done")

    def _make_tools(self) -> Path:
        """Install the build tools into their own environment; the folder of its programs."""
        folder = self._root / "build" / "tools"
        self._progress.begin("fetching CMake and Ninja")
        shutil.rmtree(folder, ignore_errors=True)
        self._commands.run([self._python, "-m", "venv", str(folder)])
        self._commands.run(
            [str(folder / "bin" / "python"), "-m", "pip", "install", *PIP_OPTIONS]
            + ["--require-hashes", "-r", str(self._root / "locks" / "build.lock")]
        )
        self._progress.end("done")
        return folder / "bin"

    def _wheel(self) -> Path | None:
        return next(iter(sorted(self._wheels.glob("llama_cpp_python-*.whl"))), None)

    @property
    def _requirement(self) -> str:
        return self._lock.read_text().split()[0]


def _compiler_jobs() -> int:
    """One job per available core, or fewer if the memory does not suffice."""
    if chosen := os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", ""):
        return max(1, int(chosen)) if chosen.isdigit() else 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // BYTES_PER_COMPILER))
