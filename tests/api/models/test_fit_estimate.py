"""The estimate of what fits this machine, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.models.fit_estimate import (
    Fit,
    MachineMemory,
    MemoryDevice,
    estimate_fit,
    estimate_memory_bytes,
)

GIB = 1 << 30
MIB = 1 << 20


def make_memory(
    *, host_free: int = 16, gpu_free: int | None = None, **changes: int
) -> MachineMemory:
    """16 GiB of main memory, perhaps an 8 GiB GPU; the budget is all of the memory models use."""
    devices = [MemoryDevice("host", 16 * GIB, host_free * GIB)]
    budget = 16 * GIB
    if gpu_free is not None:
        devices.append(MemoryDevice("cuda", 8 * GIB, gpu_free * GIB))
        budget = 8 * GIB
    fields: dict[str, Any] = {"devices": devices, "budget_bytes": budget, "used_bytes": 0}
    return MachineMemory(**{**fields, **changes})


def test_the_estimate_adds_files_cache_compute_process_and_device() -> None:
    assert estimate_memory_bytes(10 * GIB, has_accelerator=False) == 11 * GIB + (512 + 192) * MIB
    assert (
        estimate_memory_bytes(10 * GIB, has_accelerator=True) == 11 * GIB + (512 + 192 + 640) * MIB
    )
    assert estimate_memory_bytes(100 * MIB, has_accelerator=False) == (100 + 128 + 512 + 192) * MIB


@pytest.mark.parametrize(
    ("size_gib", "memory", "may_split", "fit"),
    [
        (4, make_memory(), True, Fit.YES),
        (15, make_memory(), True, Fit.UNKNOWN),
        (16, make_memory(), True, Fit.NO),
        (4, make_memory(budget_bytes=4 * GIB), True, Fit.NO),
        (4, make_memory(host_free=2), True, Fit.NO),
        (4, make_memory(host_free=2, used_bytes=10 * GIB), True, Fit.YES),
        (4, make_memory(gpu_free=8), False, Fit.YES),
        (10, make_memory(gpu_free=8), True, Fit.YES),
        (10, make_memory(gpu_free=8), False, Fit.NO),
        (30, make_memory(gpu_free=8), True, Fit.NO),
        (4, make_memory(gpu_free=2, host_free=1), True, Fit.NO),
    ],
    ids=[
        "plenty of room",
        "with a shorter context perhaps",
        "as large as the memory",
        "a budget below the memory",
        "other processes use the memory",
        "loaded models can be unloaded",
        "on the accelerator",
        "partly on the accelerator",
        "what cannot be split",
        "more than both memories",
        "a full accelerator and a full host",
    ],
)
def test_the_fit_is_as_in_the_table(
    size_gib: int, memory: MachineMemory, may_split: bool, fit: Fit
) -> None:
    assert estimate_fit(size_gib * GIB, memory, may_split=may_split) is fit


@pytest.mark.parametrize(
    ("size_bytes", "memory"),
    [(None, make_memory()), (1, None), (1, make_memory(budget_bytes=0))],
    ids=["no size", "no engine", "no budget"],
)
def test_a_missing_number_makes_the_fit_unknown(
    size_bytes: int | None, memory: MachineMemory | None
) -> None:
    assert estimate_fit(size_bytes, memory, may_split=True) is Fit.UNKNOWN


def test_a_tenth_of_the_main_memory_is_kept_free() -> None:
    memory = make_memory(gpu_free=8, host_free=1)

    assert (memory.spare_host_bytes, make_memory().spare_host_bytes) == (0, 0)
    assert make_memory(gpu_free=8).spare_host_bytes == 16 * GIB - 16 * GIB // 10
