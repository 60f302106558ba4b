"""Which GPUs the installed llama.cpp can use, and for which GPUs it has code.

To ask for the memory of a device means to occupy some of it, until the process ends.

CUDA devices all count. Of a ROCm or Vulkan build only the first device does: nothing hides the
others from a runner, so the log of one could not be distinguished from another's.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.engine.backends.llamacpp.compute_modules import open_ggml
from services.engine.backends.llamacpp.library import load_library
from services.engine.core import Device

_CUDA, _METAL = "cuda", "mtl"
_KINDS = frozenset({_CUDA, "rocm", "vulkan", _METAL})
_GPU, _INTEGRATED_GPU = 1, 2  # ggml_backend_dev_type
_ARCHITECTURES = re.compile(r"\bARCHS = ([\d,]+)")


class _Properties(ctypes.Structure):
    """ggml_backend_dev_props."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", ctypes.c_bool * 64),  # more than there are today
    )


def list_devices() -> list[Device]:
    """The devices that layers can be put on, in llama.cpp's order."""
    lib = load_library()
    # In a build without a ggml library of its own, ggml is a part of llama.cpp's.
    ggml = open_ggml(_library_folder()) or lib.llama_cpp._lib  # noqa: SLF001
    return choose_devices(_read_devices(ggml))


def choose_devices(found: Sequence[tuple[int, Device]]) -> list[Device]:
    """Choose from all devices and their ggml types.

    Integrated GPUs count only where there is no other, as for llama.cpp.
    """
    known = [(type_, device) for type_, device in found if device.kind in _KINDS]
    gpus = [device for type_, device in known if type_ == _GPU]
    gpus = gpus or [device for type_, device in known if type_ == _INTEGRATED_GPU]
    cuda = [device for device in gpus if device.kind == _CUDA]
    return cuda or gpus[:1]


def has_cuda_backend() -> bool:
    """Whether this build was compiled for CUDA, whether or not its module could be loaded."""
    return any(_library_folder().glob("libggml-cuda*"))


def read_cuda_architectures() -> tuple[int, ...]:
    """The compute capabilities, times 10, that the loaded CUDA backend has code for."""
    return parse_architectures(load_library().llama_print_system_info().decode())


def parse_architectures(system_info: str) -> tuple[int, ...]:
    """Parse `CUDA : ARCHS = 750,900 | …`: (75, 90). Empty without a CUDA backend."""
    found = _ARCHITECTURES.search(system_info)
    return tuple(int(arch) // 10 for arch in found[1].split(",") if arch) if found else ()


def _library_folder() -> Path:
    return Path(load_library().__file__ or "").parent / "lib"


def _read_devices(ggml: ctypes.CDLL) -> list[tuple[int, Device]]:
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Properties)]
    ggml.ggml_backend_dev_get_props.restype = None
    found = []
    for number in range(ggml.ggml_backend_dev_count()):
        properties = _Properties()
        ggml.ggml_backend_dev_get_props(ggml.ggml_backend_dev_get(number), ctypes.byref(properties))
        found.append((int(properties.type), _build_device(properties)))
    return found


def _build_device(properties: _Properties) -> Device:
    device = Device(
        name=properties.name.decode().lower(),
        label=properties.description.decode("utf-8", "replace"),
        total_bytes=int(properties.memory_total),
        pci_bus_id=properties.device_id.decode() if properties.device_id else None,
    )
    uses_main_memory = properties.type == _INTEGRATED_GPU or device.kind == _METAL
    return msgspec.structs.replace(device, uses_main_memory=uses_main_memory)
