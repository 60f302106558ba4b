"""Open llama.cpp once per process, and listen to what it says.

llama.cpp tells two things only through its log: why a load failed and how many bytes each buffer
takes. So every line is kept while someone listens, and warnings go to our own log.
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

logger = logging.getLogger(__name__)

_INFO, _WARN, _ERROR = 2, 3, 4  # ggml_log_level
_listeners: list[list[str]] = []
_keep: list[Any] = []  # callbacks C still holds


@cache
def load_library() -> ModuleType:
    """The binding module, its compute backends registered."""
    import llama_cpp

    callback = llama_cpp.llama_log_callback(_on_log)
    _keep.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    load_compute_modules(Path(llama_cpp.__file__).parent / "lib")
    llama_cpp.llama_backend_init()
    return llama_cpp


@contextmanager
def capture_log() -> Iterator[list[str]]:
    """The lines llama.cpp writes meanwhile, debug output left out."""
    lines: list[str] = []
    _listeners.append(lines)
    try:
        yield lines
    finally:
        # By identity: two that heard the same are equal.
        _listeners[:] = [other for other in _listeners if other is not lines]


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    if level < _INFO or level > _ERROR:  # debug, and the dots of progress
        return
    line = text.decode("utf-8", "replace").rstrip()
    for lines in _listeners:
        lines.append(line)
    if level >= _WARN:
        logger.debug("llama.cpp says", extra={"line": line, "level": level})
