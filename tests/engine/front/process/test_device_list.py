"""The devices are listed by another process, which may fail in any way."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import pytest

from services.engine.core import Device
from services.engine.front.process.device_list import list_devices


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_the_devices_are_those_that_llama_cpp_lists() -> None:
    devices = (
        Device(name="cuda0", label="NVIDIA H200", total_bytes=5, pci_bus_id="0000:01:00.0"),
        Device(name="cuda1", label="NVIDIA H200", total_bytes=5, pci_bus_id="0000:c1:00.0"),
    )
    listing = msgspec.json.encode(devices).decode()

    assert list_devices(program(f"print('noise of a driver'); print({listing!r})")) == devices


def test_cuda_numbers_the_devices_in_the_order_of_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    text = """import os; print('[{"name": "cuda0", "label": "%s", "total_bytes": 5}]'
        % os.environ['CUDA_DEVICE_ORDER'])"""

    (device,) = list_devices(program(text))

    assert device.label == "PCI_BUS_ID"


def test_a_program_that_was_aborted_is_run_again(tmp_path: Path) -> None:
    """The GPU's memory may be full for a moment, until that of an earlier engine is freed."""
    text = f"""if True:
        import os, pathlib
        marker = pathlib.Path({str(tmp_path / "marker")!r})
        if not marker.exists():
            marker.touch()
            os.abort()
        print('[{{"name": "cuda0", "label": "x", "total_bytes": 5}}]')
    """

    assert [device.name for device in list_devices(program(text), retry_seconds=0)] == ["cuda0"]


@pytest.mark.parametrize(
    "text",
    [
        "import os; os.abort()",
        "import no_such_module",
        "print('no list')",
        "pass",
        "print('[{\"name\": 5}]')",
    ],
)
def test_without_a_list_models_use_main_memory_only(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert list_devices(program(text), retry_seconds=0) == ()

    assert "GPUs not listed: models use main memory only" in caplog.messages


def test_a_program_that_does_not_exist_is_no_list() -> None:
    assert list_devices(("/no/such/program",)) == ()


def test_the_installed_llama_cpp_answers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        devices = list_devices()

    assert caplog.messages == []
    assert all(device.total_bytes > 0 for device in devices)
