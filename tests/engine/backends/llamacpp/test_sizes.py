from __future__ import annotations

from services.engine.backends.llamacpp.sizes import parse_sizes

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


def test_the_log_of_a_load_gives_sizes_by_pool() -> None:
    sizes = parse_sizes(LOADED_ON_A_GPU.splitlines())

    assert (sizes.kv_bytes, sizes.compute_bytes) == (96 * MIB, 217 * MIB)
    assert sizes.pool_bytes(weights_bytes=400 * MIB, offloaded=[1.0]) == {
        "host": 117 * MIB,
        "cuda0": 596 * MIB,
    }


def test_a_dry_run_is_placed_by_offloaded_layers() -> None:
    sizes = parse_sizes(DRY_RUN.splitlines())

    assert (sizes.kv_bytes, sizes.compute_bytes) == (int(6.5 * MIB), int(5.5 * MIB))
    assert sizes.pool_bytes(weights_bytes=100 * MIB, offloaded=[]) == {"host": 112 * MIB}
    assert sizes.pool_bytes(weights_bytes=100 * MIB, offloaded=[0.25, 0.25]) == {
        "cuda0": 26 * MIB + int(0.625 * MIB),
        "cuda1": 26 * MIB + int(0.625 * MIB),
        "host": 58 * MIB + int(0.75 * MIB),
    }


def test_rounding_loses_no_byte() -> None:
    sizes = parse_sizes(DRY_RUN.splitlines())

    pools = sizes.pool_bytes(weights_bytes=1_000_003, offloaded=[0.3, 0.3])

    assert sum(pools.values()) == 1_000_003 + sizes.kv_bytes + sizes.compute_bytes
