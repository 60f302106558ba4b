from __future__ import annotations

import pytest

from services.engine.backends.llamacpp.backend import LlamaBackend
from services.engine.backends.llamacpp.library import load_library
from services.engine.core import LoadConfig
from services.shared.errors import ModelLoadFailed
from tests.conftest import TINY_GGUF


def test_a_model_without_a_memory_is_refused_as_an_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BERT and its relatives: llama.cpp reports a decoder, and no memory to generate with."""
    monkeypatch.setattr(load_library(), "llama_get_memory", lambda _context: None)
    config = LoadConfig(model_path=str(TINY_GGUF), backend="llamacpp", context_length=256)

    with pytest.raises(ModelLoadFailed, match="it is an encoder"):
        LlamaBackend.open(config, lambda _fraction: None)
