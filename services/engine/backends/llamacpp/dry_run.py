"""Estimate the memory of a load, to the byte, without reading the weights.

llama.cpp loads only the header (`no_alloc`) and plans its buffers; their sizes are in its log. It
aborts for some broken files, so an estimate runs in its own process, like a load.
"""

from __future__ import annotations

from services.engine.backends.llamacpp.loading import open_model
from services.engine.core import LoadConfig, ModelInfo


def dry_run(config: LoadConfig) -> ModelInfo:
    """Compute the sizes that a load with this config would have. Raises ModelLoadFailed."""
    model = open_model(config, lambda _: None, dry=True)
    model.close()
    return model.info
