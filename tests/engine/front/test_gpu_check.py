"""What the front makes of the report about the GPUs, whose process may fail in any way."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import pytest

from protos import engine_pb2 as pb
from services.engine.core import Device
from services.engine.front.gpu_check import GpuCheck, check_gpu
from services.engine.gpu import Gpu, GpuReport
from tests.engine.engine_server import add_scripted_model, running_front

DEVICES = (
    Device(name="cuda0", label="NVIDIA H200", total_bytes=5, pci_bus_id="0000:01:00.0"),
    Device(name="cuda1", label="NVIDIA H200", total_bytes=5, pci_bus_id="0000:c1:00.0"),
)
WITHOUT_LIBCUDA = GpuReport(has_cuda_backend=True, driver="580.1", gpus=(Gpu("RTX 3090", 86),))
FAILED = "the check of the GPUs failed: see the log of the engine"
FAILING = {
    "a process that aborts": "import os; os.abort()",
    "a process that fails": "import no_such_module",
    "no JSON": "print('no report')",
    "nothing": "pass",
    "another report": "print('{\"devices\": 5}')",
}


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def print_report(report: GpuReport) -> tuple[str, ...]:
    text = msgspec.json.encode(report).decode()
    return program(f"print('noise of a driver'); print({text!r})")


@pytest.mark.parametrize("is_required", [False, True], ids=["not required", "required"])
def test_loads_are_planned_on_the_devices_of_the_report(
    is_required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        check = check_gpu(is_required=is_required, command=print_report(GpuReport(devices=DEVICES)))

    assert check == GpuCheck(DEVICES, is_required=is_required)
    assert (check.problems, check.refusal) == ((), None)
    assert caplog.messages == ["GPUs"]


def test_a_gpu_that_nvml_alone_sees_is_logged_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = check_gpu(is_required=False, command=print_report(WITHOUT_LIBCUDA))

    [problem] = check.problems
    assert problem.startswith("GPU: driver 580.1 is visible")
    assert (check.refusal, check.devices) == (None, ())
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, "a GPU cannot be used")
    ]


def test_a_machine_without_a_gpu_has_a_problem_only_where_one_is_required() -> None:
    command = print_report(GpuReport(nvml_error="Driver Not Loaded", has_cuda_backend=True))
    required = check_gpu(is_required=True, command=command)

    assert check_gpu(is_required=False, command=command) == GpuCheck()
    assert required.refusal is not None
    assert required.refusal.startswith("no usable GPU: no NVIDIA driver is visible")


def test_a_gpu_that_is_too_old_beside_a_usable_one_refuses_no_load() -> None:
    report = GpuReport(
        devices=DEVICES,
        has_cuda_backend=True,
        architectures=(75,),
        gpus=(Gpu("Tesla P40", 61, "0000:01:00.0"), Gpu("H200", 90, "0000:c1:00.0")),
        has_libcuda=True,
    )
    check = check_gpu(is_required=True, command=print_report(report))

    [problem] = check.problems
    assert "GPU 0 (Tesla P40" in problem
    assert (check.devices, check.refusal) == (DEVICES[1:], None)


@pytest.mark.parametrize("text", FAILING.values(), ids=list(FAILING))
def test_without_a_report_no_gpu_is_used_and_that_is_a_problem(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    check = check_gpu(is_required=True, command=program(text), retry_seconds=0)

    assert (check.devices, check.problem) == ((), FAILED)
    assert check.refusal == f"no usable GPU: {FAILED}"
    assert caplog.messages == ["no GPU report", "a GPU cannot be used"]


def test_a_program_that_hangs_is_ended_and_is_no_report() -> None:
    command = program("import time; time.sleep(600)")

    check = check_gpu(is_required=False, command=command, timeout_seconds=0.1)

    assert check == GpuCheck(problem=FAILED)


def test_a_program_that_does_not_exist_is_no_report() -> None:
    assert check_gpu(is_required=False, command=("/no/such/program",)) == GpuCheck(problem=FAILED)


def test_a_program_that_was_aborted_is_run_again(tmp_path: Path) -> None:
    """The GPU's memory may be full for a moment, until that of an earlier engine is freed."""
    report = msgspec.json.encode(GpuReport(devices=DEVICES)).decode()
    text = f"""if True:
        import os, pathlib
        marker = pathlib.Path({str(tmp_path / "marker")!r})
        if not marker.exists():
            marker.touch()
            os.abort()
        print({report!r})
    """
    check = check_gpu(is_required=False, command=program(text), retry_seconds=0)

    assert check.devices == DEVICES


def test_cuda_numbers_the_devices_in_the_order_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    text = """import os; print('{"devices": [{"name": "cuda0", "label": "%s", "total_bytes": 5}]}'
        % os.environ['CUDA_DEVICE_ORDER'])"""

    (device,) = check_gpu(is_required=False, command=program(text)).devices

    assert device.label == "PCI_BUS_ID"


def test_the_installed_llama_cpp_answers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        devices = check_gpu(is_required=False).devices

    assert caplog.messages == []
    assert all(device.total_bytes > 0 for device in devices)


async def test_a_front_that_requires_a_gpu_loads_no_model_without_one(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    gpu = GpuCheck(problem="no driver", is_required=True)
    async with running_front(tmp_path, gpu=gpu) as front:
        _, last = await front.client().ask("words", "hello")
        health = await front.stub.Health(pb.HealthRequest(), timeout=5)
        loaded = await front.loaded()

    assert (last.error.code, last.error.message) == (
        "model_load_failed",
        "no usable GPU: no driver",
    )
    assert (health.accepting, health.lacks_required_gpu) == (True, True)
    assert list(health.problems) == ["GPU: no driver"]
    assert list(loaded.problems) == ["GPU: no driver"]


async def test_a_front_that_requires_none_computes_without_it_and_says_so(tmp_path: Path) -> None:
    add_scripted_model(tmp_path, "words")
    async with running_front(tmp_path, gpu=GpuCheck(problem="no driver")) as front:
        text, _ = await front.client().ask("words", "hello")
        health = await front.stub.Health(pb.HealthRequest(), timeout=5)

    assert text == "hello "
    assert (health.lacks_required_gpu, list(health.problems)) == (False, ["GPU: no driver"])
