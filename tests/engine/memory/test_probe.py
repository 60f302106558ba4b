from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

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
    host = SystemProbe(tmp_path, tmp_path).measure_pools()[0]

    assert host.name == "host"
    assert 0 < host.free_bytes <= host.total_bytes <= psutil.virtual_memory().total


class FakeNvml:
    """Two devices of 100 bytes, 60 of them free; `lost` ones raise an error."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.lost: set[int] = set()

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802, NVML's own name
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        if number in self.lost:
            raise self.NVMLError("GPU is lost")
        return number

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=100, free=60)

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"device %d" % handle


def test_a_lost_gpu_has_no_free_memory_and_leaves_the_others_measured(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = SystemProbe(tmp_path, tmp_path, open_nvml=lambda: nvml)
    probe.measure_pools()
    nvml.lost = {0}

    _, lost, other = probe.measure_pools()

    assert lost == MemoryPool("cuda0", "cuda", 100, 0, "device 0")
    assert other == MemoryPool("cuda1", "cuda", 100, 60, "device 1")
