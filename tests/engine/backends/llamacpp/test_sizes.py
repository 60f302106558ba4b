from __future__ import annotations

from typing import Any

import pytest

from services.engine.backends.llamacpp.library import load_library
from services.engine.backends.llamacpp.settings import build_model_parameters, place_layers
from services.engine.backends.llamacpp.sizes import parse_sizes
from services.engine.core import LoadConfig

MIB = 1 << 20

LOADED_ON_A_GPU = """\
load_tensors: offloaded 25/25 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:        CUDA0 model buffer size =   300.00 MiB
llama_context:  CUDA_Host  output buffer size =     0.50 MiB
llama_kv_cache:      CUDA0 KV buffer size =    96.00 MiB
llama_kv_cache: size =   96.00 MiB (  8192 cells,  24 layers, 64/1 seqs), K (f16):   48.00 MiB
sched_reserve:      CUDA0 compute buffer size =   200.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    16.50 MiB
"""
DRY_RUN = """\
load_tensors:          CPU model buffer size =     0.00 MiB
llama_context:        CPU  output buffer size =     0.25 MiB
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =    4.00 MiB (  2048 cells,   4 layers, 64/1 seqs), K (f16):    2.00 MiB
llama_memory_recurrent: size =    2.50 MiB (    17 cells,   4 layers, 17 seqs  0 rs_seq)
sched_reserve:        CPU compute buffer size =     5.25 MiB
"""


SPLIT = """\
load_tensors:          CPU model buffer size =   100.00 MiB
load_tensors:        CUDA0 model buffer size =   200.00 MiB
load_tensors:        CUDA1 model buffer size =   100.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =    32.00 MiB
llama_kv_cache: size =   96.00 MiB (  8192 cells,  24 layers, 64/1 seqs), K (f16):   48.00 MiB
sched_reserve:      CUDA0 compute buffer size =   200.00 MiB
sched_reserve:      CUDA1 compute buffer size =   150.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    16.00 MiB
"""


def config(**changes: Any) -> LoadConfig:
    return LoadConfig(model_path="m", backend="llamacpp", context_length=1024, **changes)


def test_the_log_of_a_load_gives_sizes_by_pool() -> None:
    sizes = parse_sizes(LOADED_ON_A_GPU.splitlines(), ["cuda0"])

    assert (sizes.kv_bytes, sizes.compute_bytes) == (96 * MIB, 217 * MIB)
    assert sizes.pool_bytes(weights_bytes=400 * MIB, layers={"host": 0, "cuda0": 25}) == {
        "host": 117 * MIB,
        "cuda0": 596 * MIB,
    }


def test_devices_are_named_as_the_machine_numbers_them_and_not_as_the_runner_does() -> None:
    sizes = parse_sizes(SPLIT.splitlines(), ["cuda3", "cuda1"])

    assert sizes.pool_bytes(weights_bytes=400 * MIB, layers={}) == {
        "host": 116 * MIB,
        "cuda3": 464 * MIB,
        "cuda1": 282 * MIB,
    }


@pytest.mark.parametrize("name", ["ROCm0", "Vulkan0", "MTL0", "SYCL0"])
@pytest.mark.parametrize(
    ("devices", "pool"), [([], "host"), (["rocm0"], "rocm0"), (["host"], "host")]
)
def test_buffers_of_any_kind_of_gpu_are_in_the_pool_of_the_device(
    name: str, devices: list[str], pool: str
) -> None:
    sizes = parse_sizes([f"sched_reserve:  {name} compute buffer size =  8.00 MiB"], devices)

    assert sizes.pool_bytes(weights_bytes=0, layers={"host": 1}) == {pool: 8 * MIB}


def test_a_dry_run_is_placed_like_the_layers() -> None:
    sizes = parse_sizes(DRY_RUN.splitlines(), [])

    assert (sizes.kv_bytes, sizes.compute_bytes) == (int(6.5 * MIB), int(5.5 * MIB))
    assert sizes.pool_bytes(weights_bytes=100 * MIB, layers={"host": 4}) == {"host": 112 * MIB}
    layers = {"host": 2, "cuda0": 1, "cuda1": 1}
    assert sizes.pool_bytes(weights_bytes=100 * MIB, layers=layers) == {
        "cuda0": 26 * MIB + int(0.625 * MIB),
        "cuda1": 26 * MIB + int(0.625 * MIB),
        "host": 58 * MIB + int(0.75 * MIB),
    }


def test_rounding_loses_no_byte() -> None:
    sizes = parse_sizes(DRY_RUN.splitlines(), [])

    pools = sizes.pool_bytes(weights_bytes=1_000_003, layers={"host": 4, "cuda0": 3, "cuda1": 3})

    assert sum(pools.values()) == 1_000_003 + sizes.kv_bytes + sizes.compute_bytes


@pytest.mark.parametrize(
    ("changes", "placed"),
    [
        pytest.param({"gpu_layers": -1}, {"host": 33}, id="no device"),
        pytest.param({"gpu_layers": 0, "devices": ("cuda0",)}, {"host": 33, "cuda0": 0}, id="none"),
        pytest.param(
            {"gpu_layers": -1, "devices": ("cuda1",)}, {"host": 0, "cuda1": 33}, id="one device"
        ),
        pytest.param(
            {"gpu_layers": 20, "devices": ("cuda0",)}, {"host": 13, "cuda0": 20}, id="a part"
        ),
        pytest.param(
            {"gpu_layers": 10_000, "devices": ("cuda0",)}, {"host": 0, "cuda0": 33}, id="too many"
        ),
        pytest.param(
            {"gpu_layers": -1, "devices": ("cuda0", "cuda1"), "tensor_split": (3.0, 1.0)},
            {"host": 0, "cuda0": 25, "cuda1": 8},  # as llama.cpp: 24.75 layers, rounded up
            id="two devices",
        ),
        pytest.param({"gpu_layers": -1, "devices": ("host",)}, {"host": 33}, id="main memory"),
    ],
)
def test_layers_are_placed_as_llama_cpp_distributes_them(
    changes: dict[str, Any], placed: dict[str, int]
) -> None:
    assert place_layers(config(**changes), 33) == placed


@pytest.mark.parametrize(
    ("changes", "split_mode", "main_gpu"),
    [
        pytest.param({}, 0, -1, id="no device"),
        pytest.param({"devices": ("cuda2",)}, 0, 0, id="one device is the first that it sees"),
        pytest.param(
            {"devices": ("cuda0", "cuda1"), "tensor_split": (23.0, 8.0)}, 1, 0, id="by layers"
        ),
    ],
)
def test_the_devices_of_a_load_become_llama_cpps_parameters(
    changes: dict[str, Any], split_mode: int, main_gpu: int
) -> None:
    params = build_model_parameters(load_library(), config(gpu_layers=-1, **changes))

    assert (params.split_mode, params.main_gpu) == (split_mode, main_gpu)
    shares = changes.get("tensor_split", ())
    assert tuple(params.tensor_split[: len(shares)] if shares else ()) == shares
