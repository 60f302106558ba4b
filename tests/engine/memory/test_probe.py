from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from services.engine.core import Device
from services.engine.memory.probe import MemoryPool, SystemProbe, read_cgroup_memory


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own"
    path.write_text(text)
    return path


def test_page_cache_of_a_version_2_cgroup_counts_as_free(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    write(root, memory__max="1000\n", memory__current="700\n")
    write(root, memory__stat="anon 300\nfile 400\nshmem 100\n")

    assert read_cgroup_memory(root, own(tmp_path, "0::/\n")) == (1000, 600)


def test_the_smallest_limit_of_nested_cgroups_applies(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    write(root / "a", memory__max="1000", memory__current="900", memory__stat="file 0\n")
    write(root / "a" / "b", memory__max="500", memory__current="100", memory__stat="file 0\n")

    assert read_cgroup_memory(root, own(tmp_path, "0::/a/b\n")) == (500, 100)


def test_the_limit_of_a_version_1_cgroup_applies(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    memory = root / "memory" / "docker"
    write(memory, memory__limit_in_bytes="1000", memory__usage_in_bytes="700")
    write(memory, memory__stat="total_cache 500\ntotal_shmem 100\n")
    text = "5:cpu:/docker\n4:memory:/docker\n0::/\n"

    assert read_cgroup_memory(root, own(tmp_path, text)) == (1000, 700)


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n"])
def test_a_cgroup_without_a_limit_is_none(tmp_path: Path, limit: str) -> None:
    root = tmp_path / "cgroup"
    write(root, memory__max=limit, memory__current="700\n")

    assert read_cgroup_memory(root, own(tmp_path, "0::/\n")) is None


def test_a_system_without_cgroups_is_none(tmp_path: Path) -> None:
    assert read_cgroup_memory(tmp_path / "nothing", tmp_path / "nothing") is None


def test_the_host_is_the_first_pool_and_has_memory(tmp_path: Path) -> None:
    host = SystemProbe(cgroups=tmp_path, own_cgroups=tmp_path).measure_pools()[0]

    assert host.name == "host"
    assert 0 < host.free_bytes <= host.total_bytes <= psutil.virtual_memory().total


class FakeNvml:
    """Two GPUs of 100 and 200 bytes, by their addresses; `lost` ones raise an error."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.free = {"0000:01:00.0": (100, 60), "0000:c1:00.0": (200, 150)}
        self.lost: set[str] = set()

    def nvmlDeviceGetHandleByPciBusId(self, address: str) -> str:  # noqa: N802, NVML's own name
        if address in self.lost or address not in self.free:
            raise self.NVMLError("GPU is lost")
        return address

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        total, free = self.free[handle]
        return SimpleNamespace(total=total, free=free)


FIRST = Device(name="cuda0", label="small", total_bytes=100, pci_bus_id="0000:01:00.0")
SECOND = Device(name="cuda1", label="large", total_bytes=200, pci_bus_id="0000:c1:00.0")


def measure_devices(*devices: Device, nvml: FakeNvml | None = None) -> tuple[MemoryPool, ...]:
    return SystemProbe(devices, open_nvml=lambda: nvml or FakeNvml()).measure_pools()[1:]


def test_each_device_is_measured_at_its_own_address() -> None:
    assert measure_devices(FIRST, SECOND) == (
        MemoryPool("cuda0", "cuda", 100, 60, "small"),
        MemoryPool("cuda1", "cuda", 200, 150, "large"),
    )


def test_cudas_numbers_need_not_be_those_of_nvml() -> None:
    """As after CUDA_VISIBLE_DEVICES=1, or 1,0 or a list of UUIDs."""
    shifted = msgspec.structs.replace(SECOND, name="cuda0")

    assert measure_devices(shifted) == (MemoryPool("cuda0", "cuda", 200, 150, "large"),)


def test_a_gpu_that_llama_cpp_cannot_use_has_no_pool() -> None:
    assert measure_devices() == ()


def test_a_gpu_that_uses_main_memory_has_no_pool_of_its_own() -> None:
    metal = Device(name="mtl0", label="Apple M4", total_bytes=100, uses_main_memory=True)

    assert measure_devices(metal) == ()


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(Device(name="rocm0", label="x", total_bytes=100), id="not NVIDIA's"),
        pytest.param(
            msgspec.structs.replace(FIRST, pci_bus_id="0000:99:00.0"), id="unknown to NVML"
        ),
        pytest.param(
            msgspec.structs.replace(SECOND, total_bytes=50), id="a part of a larger one (MIG)"
        ),
        pytest.param(msgspec.structs.replace(FIRST, pci_bus_id=None), id="without an address"),
    ],
)
def test_free_memory_that_cannot_be_measured_is_the_devices_total(device: Device) -> None:
    (pool,) = measure_devices(device)

    assert (pool.total_bytes, pool.free_bytes) == (device.total_bytes, device.total_bytes)
    assert not pool.is_measured


def test_a_lost_gpu_has_no_free_memory_and_leaves_the_others_measured() -> None:
    nvml = FakeNvml()
    probe = SystemProbe((FIRST, SECOND), open_nvml=lambda: nvml)
    nvml.lost = {"0000:01:00.0"}

    _, lost, other = probe.measure_pools()

    assert lost == MemoryPool("cuda0", "cuda", 100, 0, "small")
    assert other == MemoryPool("cuda1", "cuda", 200, 150, "large")


def test_the_memory_of_a_process_is_what_belongs_to_no_file() -> None:
    held = bytearray(os.urandom(1)) * (64 << 20)
    used = SystemProbe().measure_process(os.getpid())

    if used is None:
        pytest.skip("this system does not report it")
    assert len(held) < used < psutil.virtual_memory().total


def test_a_process_that_has_ended_cannot_be_measured() -> None:
    assert SystemProbe().measure_process(1 << 23) is None
