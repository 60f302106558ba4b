"""The estimate of what fits, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.models.fit_estimate import Box, Device, Fits, estimate_bytes, fits

GIB = 1 << 30
MIB = 1 << 20


def make_box(*, host_free: int = 16, gpu_free: int | None = None, **changes: int) -> Box:
    """A box of these GiB, its budget all of what models live in."""
    devices = [Device("host", 16 * GIB, host_free * GIB)]
    budget = 16 * GIB
    if gpu_free is not None:
        devices.append(Device("cuda", 8 * GIB, gpu_free * GIB))
        budget = 8 * GIB
    fields: dict[str, Any] = {"devices": devices, "budget_bytes": budget, "used_bytes": 0}
    return Box(**{**fields, **changes})


def test_the_rule_is_files_cache_compute_process_and_the_device() -> None:
    assert estimate_bytes(10 * GIB, has_accelerator=False) == 11 * GIB + (512 + 192) * MIB
    assert estimate_bytes(10 * GIB, has_accelerator=True) == 11 * GIB + (512 + 192 + 512) * MIB
    assert estimate_bytes(100 * MIB, has_accelerator=False) == (100 + 128 + 512 + 192) * MIB


@pytest.mark.parametrize(
    ("size_gib", "box", "may_split", "answer"),
    [
        (4, make_box(), True, Fits.YES),
        (15, make_box(), True, Fits.UNKNOWN),
        (16, make_box(), True, Fits.NO),
        (4, make_box(budget_bytes=4 * GIB), True, Fits.NO),
        (4, make_box(host_free=2), True, Fits.NO),
        (4, make_box(host_free=2, used_bytes=10 * GIB), True, Fits.YES),
        (4, make_box(gpu_free=8), False, Fits.YES),
        (10, make_box(gpu_free=8), True, Fits.YES),
        (10, make_box(gpu_free=8), False, Fits.NO),
        (30, make_box(gpu_free=8), True, Fits.NO),
        (4, make_box(gpu_free=2, host_free=1), True, Fits.NO),
    ],
    ids=[
        "plenty of room",
        "with a shorter context perhaps",
        "as large as the memory",
        "a budget below the memory",
        "others use the memory",
        "idle models give way",
        "on the accelerator",
        "partly on the accelerator",
        "what cannot be split",
        "more than both memories",
        "a full accelerator and a full host",
    ],
)
def test_what_fits(size_gib: int, box: Box, may_split: bool, answer: Fits) -> None:
    assert fits(size_gib * GIB, box, may_split=may_split) is answer


@pytest.mark.parametrize(
    ("size_bytes", "box"),
    [(None, make_box()), (1, None), (1, make_box(budget_bytes=0))],
    ids=["no size", "no engine", "no budget"],
)
def test_without_a_number_nobody_knows(size_bytes: int | None, box: Box | None) -> None:
    assert fits(size_bytes, box, may_split=True) is Fits.UNKNOWN


def test_a_tenth_of_the_main_memory_is_left_to_others() -> None:
    box = make_box(gpu_free=8, host_free=1)

    assert (box.spare_host_bytes, make_box().spare_host_bytes) == (0, 0)
    assert make_box(gpu_free=8).spare_host_bytes == 16 * GIB - 16 * GIB // 10
