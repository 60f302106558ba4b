"""Open llama.cpp once per process, and capture its log.

llama.cpp reports two things only in its log: why a load failed, and how many bytes each buffer
takes. So its lines are kept while a capture is active. Warnings and errors also go to our own log,
at debug level.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from services.engine.backends.llamacpp.compute_modules import load_compute_modules
from services.shared.errors import ModelLoadFailed

logger = logging.getLogger(__name__)

_INFO, _WARN, _ERROR = 2, 3, 4  # ggml_log_level
_captures: list[list[str]] = []
_callbacks: list[Any] = []  # llama.cpp holds pointers to them


@cache
def load_library() -> ModuleType:
    """Import the binding module and register its compute backends, once per process.

    Raises ModelLoadFailed where the binding is not installed.
    """
    try:
        import llama_cpp
    except ModuleNotFoundError as error:
        raise ModelLoadFailed(
            "llama-cpp-python is not installed here: GGUF models need it"
        ) from error

    callback = llama_cpp.llama_log_callback(_on_log)
    _callbacks.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    load_compute_modules(Path(llama_cpp.__file__).parent / "lib")
    llama_cpp.llama_backend_init()
    return llama_cpp


@contextmanager
def capture_log() -> Iterator[list[str]]:
    """Collect the lines that llama.cpp logs in this context, without debug output."""
    lines: list[str] = []
    _captures.append(lines)
    try:
        yield lines
    finally:
        # Compared by identity: two captures with the same lines are equal.
        _captures[:] = [other for other in _captures if other is not lines]


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    if level < _INFO or level > _ERROR:  # debug output, and the dots that show progress
        return
    line = text.decode("utf-8", "replace").rstrip()
    for lines in _captures:
        lines.append(line)
    if level >= _WARN:
        logger.debug("llama.cpp log line", extra={"line": line, "level": level})
