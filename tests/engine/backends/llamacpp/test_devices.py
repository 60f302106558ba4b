from __future__ import annotations

import pytest

from services.engine.backends.llamacpp.devices import choose_devices
from services.engine.core import Device

CPU, GPU, INTEGRATED, ACCELERATOR = 0, 1, 2, 3  # ggml_backend_dev_type


def make_devices(*names: str) -> list[Device]:
    return [Device(name=name, label="x", total_bytes=1) for name in names]


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        pytest.param([(CPU, "cpu")], [], id="a build for the processor"),
        pytest.param(
            [(GPU, "cuda0"), (GPU, "cuda1"), (CPU, "cpu")], ["cuda0", "cuda1"], id="all of cuda"
        ),
        pytest.param([(GPU, "rocm0"), (GPU, "rocm1")], ["rocm0"], id="the first of rocm"),
        pytest.param([(GPU, "vulkan0"), (GPU, "cuda0")], ["cuda0"], id="cuda before vulkan"),
        pytest.param([(INTEGRATED, "vulkan0"), (GPU, "vulkan1")], ["vulkan1"], id="discrete first"),
        pytest.param([(INTEGRATED, "vulkan0"), (CPU, "cpu")], ["vulkan0"], id="only integrated"),
        pytest.param([(GPU, "mtl0"), (ACCELERATOR, "blas")], ["mtl0"], id="metal"),
        pytest.param([(GPU, "sycl0"), (GPU, "rpc0")], [], id="kinds that cannot be planned for"),
    ],
)
def test_the_devices_that_loads_are_planned_for(
    found: list[tuple[int, str]], chosen: list[str]
) -> None:
    devices = [(kind, make_devices(name)[0]) for kind, name in found]

    assert choose_devices(devices) == make_devices(*chosen)


def test_the_pool_of_a_device_is_its_own_memory_or_main_memory() -> None:
    cuda = Device(name="cuda12", label="x", total_bytes=1)
    metal = Device(name="mtl0", label="x", total_bytes=1, uses_main_memory=True)

    assert (cuda.kind, cuda.pool) == ("cuda", "cuda12")
    assert (metal.kind, metal.pool) == ("mtl", "host")
