"""Every setting in its range loads and computes, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from services.engine.backends import open_backend
from services.engine.backends.base import Outcome
from services.engine.backends.llamacpp.backend import LlamaBackend
from services.engine.backends.llamacpp.library import load_library
from services.engine.core import LoadConfig
from services.shared.errors import ModelLoadFailed
from services.shared.limits import QUANTIZED_CACHE_TYPES, CacheType
from tests.conftest import TINY_GGUF


@contextmanager
def loaded(path: Path = TINY_GGUF, **settings: Any) -> Iterator[LlamaBackend]:
    fields = {"context_length": 256, "max_sequences": 4, "threads": 1} | settings
    config = LoadConfig(model_path=str(path), backend="llamacpp", **fields)
    backend = open_backend(config, lambda _: None)
    assert isinstance(backend, LlamaBackend)
    try:
        yield backend
    finally:
        backend.close()


def fill_step(backend: LlamaBackend) -> None:
    """Compute a step of the most tokens that it holds, of as many sequences as there are ids."""
    step = backend.step
    step.size = len(step.tokens)
    rows = np.arange(step.size)
    step.tokens[:] = rows % 97 + 5
    step.sequences[:] = np.sort(rows % backend.sequence_id_count)
    step.wants_logits[:] = 0
    step.wants_logits[-1] = 1
    assert backend.run() is Outcome.OK
    assert np.isfinite(backend.logits(0)).all()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"context_length": 1}, id="the smallest context"),
        pytest.param({"context_length": 64}, id="a small context"),
        pytest.param({"context_length": 300}, id="a context that is rounded up"),
        pytest.param({"max_sequences": 1}, id="one sequence"),
        pytest.param({"max_sequences": 256}, id="the most sequences"),
        pytest.param({"max_sequences": 256, "batch_tokens": 32}, id="more sequences than tokens"),
        pytest.param({"max_sequences": 1, "batch_tokens": 32}, id="the smallest step"),
        pytest.param({"batch_tokens": 1 << 16}, id="the largest step"),
        pytest.param({"gpu_layers": 10_000}, id="layers on a gpu that is not there"),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "tiny-recurrent", "tiny-hybrid"])
def test_a_step_holds_no_more_than_llama_cpp_computes_at_once(
    kind: str, settings: dict[str, Any], synthetic_model: Callable[[str], Path]
) -> None:
    path = TINY_GGUF if kind == "dense" else synthetic_model(kind)
    with loaded(path, **settings) as backend:
        # llama.cpp aborts the process for a larger one.
        assert len(backend.step.tokens) <= load_library().llama_n_batch(backend._context.handle)
        fill_step(backend)


@pytest.mark.parametrize("flash_attention", [None, True, False], ids=["auto", "flash", "plain"])
@pytest.mark.parametrize("cache_type", get_args(CacheType))
def test_each_type_of_the_cache_computes_with_and_without_flash_attention(
    cache_type: CacheType, flash_attention: bool | None
) -> None:
    values = "f16" if flash_attention is False else cache_type
    with loaded(
        cache_type_k=cache_type, cache_type_v=values, flash_attention=flash_attention
    ) as backend:
        fill_step(backend)


@pytest.mark.parametrize("cache_type", sorted(QUANTIZED_CACHE_TYPES))
def test_a_quantised_cache_of_values_without_flash_attention_is_refused(
    cache_type: CacheType,
) -> None:
    """The engine's settings refuse it before; see test_settings.py."""
    with (
        pytest.raises(ModelLoadFailed, match="a quantised V cache needs flash attention"),
        loaded(cache_type_v=cache_type, flash_attention=False),
    ):
        pass
