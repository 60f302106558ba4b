"""Backends compute: llama.cpp and a fake for tests, behind one contract (`base.py`).

MLX batches by itself; of it, this folder has all but the batcher.
"""

from __future__ import annotations

from services.engine.backends.base import Backend, OnProgress
from services.engine.backends.pooling import Encoder
from services.engine.core import LoadConfig, ModelInfo
from services.shared.errors import ModelLoadFailed

ENCODER_REASON = "this model does not generate text: it is an encoder"


def open_backend(config: LoadConfig, on_progress: OnProgress) -> Backend:
    """As `open_model`, of a model that generates. Raises ModelLoadFailed for an encoder too."""
    model = open_model(config, on_progress)
    if isinstance(model, Encoder):
        model.close()
        raise ModelLoadFailed(ENCODER_REASON)
    return model


def open_model(config: LoadConfig, on_progress: OnProgress) -> Backend | Encoder:
    """Load a model, and import its backend's library. Raises ModelLoadFailed with a reason."""
    match config.backend:
        case "llamacpp":
            from services.engine.backends.llamacpp import loading

            return loading.open_model(config, on_progress)
        case "fake":
            from services.engine.backends.fake import FakeBackend

            return FakeBackend.open(config, on_progress)
        case "mlx":
            raise ModelLoadFailed("MLX batches by itself: it is no backend")


def estimate(config: LoadConfig) -> ModelInfo:
    """Estimate the sizes of a load without reading the weights. Raises ModelLoadFailed."""
    match config.backend:
        case "llamacpp":
            from services.engine.backends.llamacpp.dry_run import dry_run

            return dry_run(config)
        case "fake":
            from services.engine.backends.fake import FakeBackend

            return FakeBackend.open(config, lambda _: None).info
        case "mlx":
            from services.engine.backends.mlx.loading import estimate as estimate_mlx

            return estimate_mlx(config)
