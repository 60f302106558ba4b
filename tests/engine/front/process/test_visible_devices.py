from __future__ import annotations

import asyncio
import sys

import psutil
import pytest

from services.engine.core import LoadConfig
from services.engine.front.process.launcher import ProcessLauncher
from services.engine.front.process.runner_process import RunnerTimeouts
from services.engine.front.process.visible_devices import show_devices
from tests.engine.engine_server import eventually

UUIDS = "GPU-8932f937,GPU-0a1b2c3d,GPU-ffffffff"


@pytest.mark.parametrize(
    ("given", "devices", "visible"),
    [
        pytest.param(None, ["cuda1"], "1", id="one of all"),
        pytest.param(None, ["cuda2", "cuda0"], "2,0", id="two of all, in this order"),
        pytest.param(None, [], "-1", id="none"),
        pytest.param("3,1", ["cuda0"], "3", id="a number is a place in the list that was given"),
        pytest.param("3,1", ["cuda1", "cuda0"], "1,3", id="two of that list"),
        pytest.param(UUIDS, ["cuda1"], "GPU-0a1b2c3d", id="a list of uuids"),
        pytest.param(UUIDS, [], "-1", id="none of it"),
        pytest.param("", ["cuda0"], "0", id="an empty variable is no list"),
    ],
)
def test_a_runner_sees_the_devices_that_it_is_planned_for(
    given: str | None, devices: list[str], visible: str
) -> None:
    environment = {"PATH": "/bin"} | ({} if given is None else {"CUDA_VISIBLE_DEVICES": given})

    assert show_devices(environment, devices) == {
        "PATH": "/bin",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": visible,
    }


def test_an_order_that_the_operator_has_set_is_kept() -> None:
    environment = show_devices({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, ["cuda0"])

    assert environment["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


@pytest.mark.parametrize("device", ["rocm0", "vulkan0", "host"])
def test_nothing_is_hidden_from_a_runner_on_a_device_of_another_kind(device: str) -> None:
    """ROCm reads CUDA's variable as well."""
    assert show_devices({"PATH": "/bin"}, [device]) == {"PATH": "/bin"}


@pytest.mark.parametrize(("devices", "visible"), [(("cuda1",), "1"), ((), "-1")])
async def test_a_runner_is_started_with_its_own_devices(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], visible: str
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    argv = (sys.executable, "-c", "import time; time.sleep(60)")
    config = LoadConfig(model_path="m", backend="llamacpp", context_length=1, devices=devices)
    ended = asyncio.Event()
    launcher = ProcessLauncher(argv, timeouts=RunnerTimeouts())
    runner = await launcher.start(config, lambda _: None, lambda _: ended.set())
    try:
        process = psutil.Process(runner.pid)
        await eventually(process.environ)  # empty until the program has begun
        environment = process.environ()
    finally:
        await runner.kill_and_wait("is no longer needed")

    assert ended.is_set()
    assert environment["CUDA_VISIBLE_DEVICES"] == visible
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
