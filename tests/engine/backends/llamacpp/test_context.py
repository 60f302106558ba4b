from __future__ import annotations

import pytest

from services.engine.backends import estimate, open_backend, open_model
from services.engine.backends.llamacpp.library import load_library
from services.engine.backends.pooling import Encoder
from services.engine.core import LoadConfig
from services.shared.errors import ModelLoadFailed
from tests.conftest import TINY_GGUF

CONFIG = LoadConfig(model_path=str(TINY_GGUF), backend="llamacpp", context_length=256)


def test_a_model_without_a_memory_is_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT and its relatives: llama.cpp reports a decoder, and no memory to generate with."""
    monkeypatch.setattr(load_library(), "llama_get_memory", lambda _context: None)

    model = open_model(CONFIG, lambda _fraction: None)
    is_encoder = isinstance(model, Encoder)
    model.close()

    assert is_encoder
    assert estimate(CONFIG).kv_bytes == model.info.kv_bytes


def test_an_encoder_is_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_library(), "llama_get_memory", lambda _context: None)

    with pytest.raises(ModelLoadFailed, match="it is an encoder"):
        open_backend(CONFIG, lambda _fraction: None)
