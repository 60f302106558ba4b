"""Estimate the memory of a load, to the byte, without reading the weights.

llama.cpp loads only the header (`no_alloc`) and plans its buffers; their sizes are in its log. It
aborts for some broken files, so an estimate runs in its own process, like a load.
"""

from __future__ import annotations

from services.engine.backends.llamacpp.backend import build_model_info, read_policy
from services.engine.backends.llamacpp.context import LlamaContext
from services.engine.backends.llamacpp.library import capture_log, load_library
from services.engine.backends.llamacpp.model import LlamaModel
from services.engine.backends.llamacpp.sizes import parse_sizes
from services.engine.core import LoadConfig, ModelInfo


def dry_run(config: LoadConfig) -> ModelInfo:
    """Compute the sizes that a load with this config would have. Raises ModelLoadFailed."""
    lib = load_library()
    with capture_log() as lines:
        model = LlamaModel(lib, config, lambda _: None, dry=True)
        try:
            context = LlamaContext(lib, model, config)
            sizes = parse_sizes(lines, config.devices)
            info = build_model_info(model, context, config, read_policy(model), sizes)
            context.close()
            return info
        finally:
            model.close()
