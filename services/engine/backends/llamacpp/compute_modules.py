"""Load ggml's compute modules: the fastest trusted CPU module, and every GPU module.

A build with loadable modules (GGML_BACKEND_DL) ships one CPU module for each level of processor,
and registers none by itself. In a plain build the backends are compiled in.

Modules for processors with AMX are left out. Compilers drop the stores that fill AMX's tile
configuration (GCC 12's `_tile_loadconfig` declares only its first 8 bytes as read). ggml then
computes with tiles of no rows: the process dies with SIGILL, or the numbers are wrong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

_LIBRARIES = ("libggml.so.0", "libggml.0.dylib", "libggml.so", "libggml.dylib")
_CPU_PREFIX = "libggml-cpu-"
_WITH_AMX = frozenset({"sapphirerapids", "graniterapids"})


def load_compute_modules(folder: Path) -> None:
    """Register the modules of `folder` with ggml; does nothing where there are none."""
    modules = sorted(folder.glob("libggml-*.so"))
    scores = {path: _read_score(path) for path in modules if path.name.startswith(_CPU_PREFIX)}
    library = next((folder / name for name in _LIBRARIES if (folder / name).exists()), None)
    if library is None or not scores:
        return
    # This must be the same file that libllama links: registering in a copy of it has no effect.
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_backend_load.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    accelerators = [p for p in modules if p not in scores and p.name != "libggml-base.so"]
    for path in [*accelerators, choose_cpu_module(scores)]:
        ggml.ggml_backend_load(str(path).encode())


def choose_cpu_module(scores: Mapping[Path, int]) -> Path:
    """Choose the module without AMX that has the highest score; 0: this processor cannot run it."""
    trusted = {path: score for path, score in scores.items() if not is_amx_module(path)}
    return max(trusted, key=lambda path: (trusted[path], path.name))


def is_amx_module(path: Path) -> bool:
    """Whether the file is a CPU module that uses AMX."""
    return path.stem.removeprefix(_CPU_PREFIX) in _WITH_AMX


def uses_amx(library: ModuleType) -> bool:
    """Whether the registered CPU backend would store weights in the layout for AMX."""
    return b"AMX_INT8 = 1" in library.llama_print_system_info()


def _read_score(path: Path) -> int:
    module = ctypes.CDLL(str(path))
    module.ggml_backend_score.restype = ctypes.c_int
    return int(module.ggml_backend_score())
