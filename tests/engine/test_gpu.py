"""The sentence about a GPU that cannot be used: what is wrong, and what to do."""

from __future__ import annotations

import pytest

from services.engine.core import Device
from services.engine.gpu import Gpu, GpuReport, find_gpu_problem, list_usable_devices

P40 = Gpu("Tesla P40", 61, "0000:01:00.0")
RTX = Gpu("RTX 3090", 86, "0000:c1:00.0")
P40_DEVICE = Device(name="cuda0", label="P40", total_bytes=1, pci_bus_id=P40.pci_bus_id)
RTX_DEVICE = Device(name="cuda1", label="3090", total_bytes=1, pci_bus_id=RTX.pci_bus_id)
RADEON_DEVICE = Device(name="rocm0", label="Radeon", total_bytes=1)
# A machine where everything works.
USABLE: dict[str, object] = {
    "devices": (RTX_DEVICE,),
    "has_cuda_backend": True,
    "architectures": (75, 80, 86, 89, 90, 120),
    "runtime_cuda": 13000,
    "gpus": (RTX,),
    "driver": "580.95.05",
    "has_libcuda": True,
    "driver_cuda": 13000,
}


def make_report(**changes: object) -> GpuReport:
    return GpuReport(**(USABLE | changes))  # type: ignore[arg-type]


def test_a_gpu_that_llama_cpp_offers_is_no_problem() -> None:
    assert find_gpu_problem(make_report()) is None
    assert list_usable_devices(make_report()) == (RTX_DEVICE,)


def test_a_gpu_of_another_vendor_is_no_problem() -> None:
    report = GpuReport(devices=(RADEON_DEVICE,))

    assert find_gpu_problem(report) is None
    assert list_usable_devices(report) == (RADEON_DEVICE,)


def test_an_old_gpu_that_is_hidden_from_cuda_is_no_problem() -> None:
    assert find_gpu_problem(make_report(gpus=(P40, RTX))) is None


def test_loads_are_planned_on_the_gpus_that_are_not_too_old() -> None:
    report = make_report(gpus=(P40, RTX), devices=(P40_DEVICE, RTX_DEVICE))

    assert list_usable_devices(report) == (RTX_DEVICE,)


def test_no_load_is_planned_on_a_gpu_without_code_for_it() -> None:
    report = make_report(gpus=(P40,), devices=(P40_DEVICE,))

    assert list_usable_devices(report) == ()


PROBLEMS: dict[str, tuple[dict[str, object], list[str]]] = {
    "the container lacks the capability compute": (
        {"devices": (), "has_libcuda": False, "driver_cuda": 0, "architectures": ()},
        ["driver 580.95.05 is visible", "libcuda.so.1 is not", "capability compute"],
    ),
    "no driver": (
        {"devices": (), "driver": "", "gpus": (), "has_libcuda": False, "driver_cuda": 0},
        ["no NVIDIA driver is visible", "nvidia-smi", "container toolkit"],
    ),
    "a driver that does not fit its kernel module": (
        {"devices": (), "driver": "", "gpus": (), "has_libcuda": False}
        | {"nvml_error": "Driver/library version mismatch"},
        ["(Driver/library version mismatch)"],
    ),
    "an old driver": (
        {"devices": (), "driver": "535.183.01", "driver_cuda": 12020},
        ["driver 535.183.01 supports CUDA 12.2", "CUDA 13", "driver 580", "ENGINE=cuda12"],
    ),
    "a driver too old for CUDA 12 as well": (
        {"devices": (), "driver": "470.1", "driver_cuda": 11040, "runtime_cuda": 12040},
        ["supports CUDA 11.4", "needs CUDA 12", "driver 525 or newer"],
    ),
    "an old GPU": (
        {"gpus": (P40,), "devices": (P40_DEVICE,)},
        ["compute capability 7.5 and newer", "GPU 0 (Tesla P40", "6.1)", "ENGINE=cuda12"],
    ),
    "an old GPU beside a new one": (
        {"gpus": (RTX, P40), "devices": (P40_DEVICE, RTX_DEVICE)},
        ["not for GPU 1 (Tesla P40", "GPU_IDS"],
    ),
    "an old GPU with an old driver": (
        {"gpus": (P40,), "devices": (), "driver": "535.1", "driver_cuda": 12020},
        ["GPU 0 (Tesla P40", "ENGINE=cuda12"],
    ),
    "a build without CUDA": (
        {"devices": (), "has_cuda_backend": False, "architectures": (), "runtime_cuda": 0},
        ["compiled without CUDA", "ENGINE=cuda", "CMAKE_ARGS=-DGGML_CUDA=on ./spindll setup"],
    ),
    "a driver that does not start": (
        {"devices": (), "cuda_error": 999},
        ["CUDA does not start (error 999)", "restart the host"],
    ),
    "all GPUs are hidden": (
        {"devices": (), "gpus": (P40, RTX), "cuda_error": 100},
        ["CUDA shows none of the GPUs", "CUDA_VISIBLE_DEVICES"],
    ),
}


@pytest.mark.parametrize(("changes", "parts"), PROBLEMS.values(), ids=list(PROBLEMS))
def test_a_problem_says_what_is_wrong_and_what_to_do(
    changes: dict[str, object], parts: list[str]
) -> None:
    problem = find_gpu_problem(make_report(**changes))

    assert problem is not None
    assert [part for part in parts if part not in problem] == []


def test_a_driver_too_old_for_cuda_12_is_not_sent_to_cuda_12() -> None:
    changes, _ = PROBLEMS["a driver too old for CUDA 12 as well"]

    assert "ENGINE=cuda12" not in str(find_gpu_problem(make_report(**changes)))
