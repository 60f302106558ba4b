"""What the device is: its name, driver, memory and link, and the toolkit beside it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from bench.gpu.devices import open_probe
from bench.gpu.measuring import Case, Measuring
from bench.gpu.scale import Scale
from services.engine.backends.llamacpp.library import load_library

NAME = "device"
NEEDS_STACK = False


def list_cases(_scale: Scale) -> list[Case]:
    return [{}]


def run(_case: Case, measuring: Measuring) -> None:
    results, lib = measuring.results, load_library()
    supports = bool(lib.llama_supports_gpu_offload())
    results.add_note(f"- llama.cpp: {lib.llama_print_system_info().decode().strip()}")
    results.add_note(f"- toolkit: {_read_toolkit()}")
    for pool in open_probe().measure_pools():
        label = f"{pool.name} {pool.label}".strip()
        results.add(
            NAME,
            label,
            "memory",
            0,
            total_mib=pool.total_bytes / 2**20,
            free_mib=pool.free_bytes / 2**20,
        )
    results.add(NAME, "all", "llama.cpp", 0, offloads_layers=supports)
    _add_links(measuring)


def _add_links(measuring: Measuring) -> None:
    """Add what NVML reports of each device; a value that it does not have is left out."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001, NVML's errors exist only where its package does
        measuring.results.add_note(f"- no NVML: {error}")
        return
    driver = _as_text(pynvml.nvmlSystemGetDriverVersion())
    cuda = pynvml.nvmlSystemGetCudaDriverVersion()
    measuring.results.add_note(f"- driver {driver}, CUDA {cuda // 1000}.{cuda % 1000 // 10}")
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)

        def read(function: Callable[..., Any], *arguments: Any) -> float | None:
            try:
                return float(function(*arguments))
            except pynvml.NVMLError:
                return None

        clock = pynvml.nvmlDeviceGetMaxClockInfo
        measuring.results.add(
            NAME,
            f"cuda{number}",
            "NVML",
            0,
            compute_capability=major + minor / 10,
            pcie_generation=read(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
            pcie_lanes=read(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
            max_sm_mhz=read(clock, handle, pynvml.NVML_CLOCK_SM),
            max_memory_mhz=read(clock, handle, pynvml.NVML_CLOCK_MEM),
        )


def _read_toolkit() -> str:
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return next((x for x in done.stdout.splitlines() if "release" in x), "?")


def _as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
