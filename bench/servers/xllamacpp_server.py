"""Run the server that xllamacpp ships in a wheel, which is llama-server's core.

    python -m bench.servers.xllamacpp_server MODEL ALIAS PORT CONTEXT SEQUENCES BATCH THREADS GPU_LAYERS

The published wheels have no code for AMX, which the other servers avoid too.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any


def main() -> None:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    path, alias, *numbers = sys.argv[1:]
    port, context, sequences, batch, threads, layers = map(int, numbers)
    params: Any = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = context
    params.n_parallel = sequences
    params.kv_unified = True
    params.n_batch = params.n_ubatch = batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = layers
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
