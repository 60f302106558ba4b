"""How much memory a model takes, as assumed where no load and no dry run has measured it.

The engine plans with these numbers (engine/memory/estimate.py), and the api estimates with them
whether a model would fit (api/models/fit_estimate.py).
"""

from __future__ import annotations

KV_BYTES_PER_CELL = 128 << 10  # 32 layers of 8 heads of 128 dimensions, f16: an 8B model

# What a runner takes beside the model: the interpreter, numpy, llama.cpp, token tables; and on each
# device the driver's context with its kernels.
PROCESS_BYTES = 192 << 20
DEVICE_CONTEXT_BYTES = 640 << 20  # 606 MiB on an H200 with CUDA 13

_MIN_COMPUTE_BYTES = 128 << 20


def guess_compute_bytes(weights_bytes: int) -> int:
    """The size of the compute buffers: a tenth of the weights, and at least 128 MiB."""
    return max(weights_bytes // 10, _MIN_COMPUTE_BYTES)
