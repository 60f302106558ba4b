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
    ggml = open_ggml(folder)
    if ggml is None:
        return
    best = choose_cpu_module(scores)
    if best is None:  # one CPU module for all processors, or none at all
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path.restype = None
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        return
    ggml.ggml_backend_load.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load.restype = ctypes.c_void_p
    accelerators = [p for p in modules if p not in scores and p.name != "libggml-base.so"]
    for path in [*accelerators, best]:
        ggml.ggml_backend_load(str(path).encode())


def open_ggml(folder: Path) -> ctypes.CDLL | None:
    """The ggml library of `folder`; None where it is part of another library."""
    library = next((folder / name for name in _LIBRARIES if (folder / name).exists()), None)
    # This must be the same file that libllama links: registering in a copy of it has no effect.
    return None if library is None else ctypes.CDLL(str(library))


def choose_cpu_module(scores: Mapping[Path, int]) -> Path | None:
    """Choose the module without AMX that has the highest score.

    A score of 0 means that this processor cannot run the module. None when it can run none.
    """
    usable = {path: score for path, score in scores.items() if score and not is_amx_module(path)}
    return max(usable, key=lambda path: (usable[path], path.name), default=None)


def is_amx_module(path: Path) -> bool:
    """Whether the file is a CPU module that uses AMX."""
    return path.stem.removeprefix(_CPU_PREFIX) in _WITH_AMX


def uses_amx(library: ModuleType) -> bool:
    """Whether the registered CPU backend would store weights in the layout for AMX."""
    return b"AMX_INT8 = 1" in library.llama_print_system_info()


def _read_score(path: Path) -> int:
    """The module's own score for this processor; 0 for a file that is not such a module."""
    try:
        score = ctypes.CDLL(str(path)).ggml_backend_score
    except (OSError, AttributeError):
        return 0
    score.restype = ctypes.c_int
    return int(score())
