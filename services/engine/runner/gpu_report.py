"""`python -m services.engine.runner.gpu_report`: write a GpuReport to stdout, as JSON.

The front starts it before it loads any model. It is a process of its own, because the libraries of
a broken driver, or llama.cpp's GPU modules, may abort or hang it, and it occupies memory of every
GPU that it asks.
"""

from __future__ import annotations

import ctypes
import sys

import msgspec
import pynvml

from services.engine.backends.llamacpp import devices
from services.engine.backends.llamacpp.library import load_library
from services.engine.gpu import Gpu, GpuReport
from services.shared.errors import ModelLoadFailed

_LIBCUDA = "libcuda.so.1"
_LIBCUDART = ("libcudart.so.13", "libcudart.so.12")


def build_report() -> GpuReport:
    """Ask llama.cpp, NVML and the CUDA driver. Without llama.cpp, as on a Mac, no GPU matters."""
    try:
        load_library()
    except ModelLoadFailed:
        return GpuReport()
    driver, gpus, nvml_error = read_nvml()
    has_libcuda, cuda_error, driver_cuda = read_driver()
    return GpuReport(
        devices=tuple(devices.list_devices()),
        has_cuda_backend=devices.has_cuda_backend(),
        architectures=devices.read_cuda_architectures(),
        runtime_cuda=read_runtime_cuda(),
        gpus=gpus,
        driver=driver,
        nvml_error=nvml_error,
        has_libcuda=has_libcuda,
        cuda_error=cuda_error,
        driver_cuda=driver_cuda,
    )


def read_nvml() -> tuple[str, tuple[Gpu, ...], str]:
    """(the driver's version, its GPUs, the error): without NVML the first two are empty."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        gpus = tuple(_read_gpu(number) for number in range(count))
        return str(pynvml.nvmlSystemGetDriverVersion()), gpus, ""
    except pynvml.NVMLError as error:
        return "", (), str(error)


def _read_gpu(number: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    return Gpu(
        name=str(pynvml.nvmlDeviceGetName(handle)),
        compute_capability=10 * major + minor,
        pci_bus_id=f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0",  # as llama.cpp has it
    )


def read_driver(library: str = _LIBCUDA) -> tuple[bool, int, int]:
    """(whether libcuda can be opened, the result of cuInit, the newest CUDA that it supports)."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return False, 0, 0
    version = ctypes.c_int(0)
    error = int(cuda.cuInit(0))
    # Answers also when cuInit has failed, for instance because there is no GPU.
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return True, error, version.value


def read_runtime_cuda(libraries: tuple[str, ...] = _LIBCUDART) -> int:
    """The version of the CUDA runtime library that this build uses; 0 if there is none."""
    for library in libraries:
        try:
            runtime = ctypes.CDLL(library)
        except OSError:
            continue
        version = ctypes.c_int(0)
        runtime.cudaRuntimeGetVersion(ctypes.byref(version))
        return version.value
    return 0


if __name__ == "__main__":
    sys.stdout.write("\n" + msgspec.json.encode(build_report()).decode() + "\n")
