"""The devices that layers can be put on, and their memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

from services.engine.backends.llamacpp.devices import list_devices
from services.engine.core import Device
from services.engine.memory.probe import SystemProbe

_P = ParamSpec("_P")
_R = TypeVar("_R")


@cache
def find_devices() -> tuple[Device, ...]:
    """llama.cpp's devices; none on a machine without a GPU."""
    return tuple(run_alone(list_devices))


def open_probe() -> SystemProbe:
    """Measures main memory and that of the devices."""
    return SystemProbe(find_devices())


def run_alone(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call it in a process of its own: everything that it took on a device comes back."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return processes.submit(function, *args, **kwargs).result()
