"""Whether llama.cpp can compute on a GPU of this machine; if not, why, and what to do. Pure.

The facts are gathered in a process of its own (runner/gpu_report.py), because the libraries that
know them may abort. Versions of CUDA are 1000 * major + 10 * minor, as CUDA has them; a compute
capability is 10 * major + minor.
"""

from __future__ import annotations

import msgspec

from services.engine.core import Device
from services.shared.structs import resolved

_NO_DEVICE = 100  # CUresult
# The first driver of each major version of CUDA, for Linux (NVIDIA's "CUDA Compatibility").
_FIRST_DRIVER = {12: "525", 13: "580"}


class Gpu(msgspec.Struct, frozen=True):
    """One NVIDIA GPU, as NVML reports it."""

    name: str
    compute_capability: int
    pci_bus_id: str = ""  # as a Device has it


@resolved
class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """What llama.cpp, NVML and the CUDA driver report."""

    devices: tuple[Device, ...] = ()  # of any vendor, that llama.cpp offers to put layers on
    has_cuda_backend: bool = False  # this build of llama.cpp was compiled for CUDA
    architectures: tuple[int, ...] = ()  # compute capabilities it has code for; empty: unknown
    runtime_cuda: int = 0  # the CUDA version that it was compiled with; 0: unknown
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""  # the version of NVIDIA's driver; empty: NVML does not answer
    nvml_error: str = ""
    has_libcuda: bool = False
    cuda_error: int = 0  # CUresult of cuInit
    driver_cuda: int = 0  # the newest CUDA version that the driver supports; 0: unknown


def list_usable_devices(report: GpuReport) -> tuple[Device, ...]:
    """The devices that llama.cpp offers and has code for, in its order."""
    too_old = {gpu.pci_bus_id for _, gpu in _find_too_old_gpus(report)}
    return tuple(device for device in report.devices if device.pci_bus_id not in too_old)


def find_gpu_problem(report: GpuReport) -> str | None:
    """Why a GPU cannot be used, and what to do, in one sentence; None when all can be used.

    1. a GPU is too old for the code of this build: llama.cpp would offer it and abort later
    2. llama.cpp offers a GPU
    3. this build cannot use NVIDIA GPUs at all
    4. no driver
    5. a driver, but not its library for computing
    6. all GPUs are hidden from CUDA
    7. the driver is too old for this build
    8. the driver refuses to start
    """
    too_old = _find_too_old_gpus(report)
    if too_old and report.has_libcuda:  # 1
        return _describe_too_old_gpus(too_old, min(report.architectures))
    if report.devices:  # 2
        return None
    if not report.has_cuda_backend:  # 3
        return (
            "this llama.cpp was compiled without CUDA: start containers with ENGINE=cuda; without"
            " containers run CMAKE_ARGS=-DGGML_CUDA=on ./spindll setup"
        )
    if not report.driver and not report.has_libcuda:  # 4
        why = f" ({report.nvml_error})" if report.nvml_error else ""
        return (
            f"no NVIDIA driver is visible{why}: check nvidia-smi on the host; containers also need"
            " NVIDIA's container toolkit there"
        )
    if not report.has_libcuda:  # 5
        return (
            f"driver {report.driver} is visible, but its libcuda.so.1 is not: the container needs"
            " the capability compute beside utility, as in docker/engines.yaml"
        )
    if report.gpus and report.cuda_error == _NO_DEVICE:  # 6
        return "CUDA shows none of the GPUs: check CUDA_VISIBLE_DEVICES"
    if 0 < report.driver_cuda // 1000 < report.runtime_cuda // 1000:  # 7
        return _describe_old_driver(report)
    return (  # 8
        f"CUDA does not start (error {report.cuda_error}) with driver {report.driver or 'unknown'}:"
        " check nvidia-smi on the host; after an update of the driver restart the host"
    )


def _find_too_old_gpus(report: GpuReport) -> list[tuple[int, Gpu]]:
    """With their numbers: of the GPUs that llama.cpp offers, else of all that CUDA may show."""
    if not report.architectures or report.cuda_error == _NO_DEVICE:
        return []
    oldest = min(report.architectures)
    offered = {device.pci_bus_id for device in report.devices}
    return [
        (number, gpu)
        for number, gpu in enumerate(report.gpus)
        if gpu.compute_capability < oldest and (not offered or gpu.pci_bus_id in offered)
    ]


def _describe_too_old_gpus(gpus: list[tuple[int, Gpu]], oldest: int) -> str:
    names = ", ".join(
        f"GPU {number} ({gpu.name}, compute capability {_decimal(gpu.compute_capability)})"
        for number, gpu in gpus
    )
    return (
        f"this build of llama.cpp has code for compute capability {_decimal(oldest)} and newer, not"
        f" for {names}: start with ENGINE=cuda12, or leave it out with GPU_IDS"
    )


def _describe_old_driver(report: GpuReport) -> str:
    needed = report.runtime_cuda // 1000
    update = f"install driver {_FIRST_DRIVER.get(needed, 'for it')} or newer"
    other = ", or start with ENGINE=cuda12" if needed > 12 else ""
    return (
        f"driver {report.driver or 'unknown'} supports CUDA {_cuda(report.driver_cuda)}, and this"
        f" build of llama.cpp needs CUDA {needed}: {update}{other}"
    )


def _decimal(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
