"""What is asked of MLX and of the system around it, with a stand-in for Metal."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from services.engine.backends.mlx.library import load_library
from services.engine.backends.mlx.loading import LoadedModel, estimate, load
from services.engine.backends.mlx.sizes import ModelSizes
from services.engine.backends.mlx.vocabulary import MlxVocabulary
from services.engine.core import MemoryPolicy, ModelInfo
from services.engine.messages.reports import Ready
from services.shared.errors import ModelLoadFailed
from tests.engine.backends.mlx.mlx_tests import build_config
from tests.engine.runner.child_runner import ChildRunner

GIB = 1 << 30
SIZES = ModelSizes(
    vocab_size=8,
    weights_bytes=8 * GIB,
    token_bytes=1,
    sequence_bytes=0,
    policy=MemoryPolicy.DENSE,
    window=0,
)


def limit_memory(recommended: int, *, has_metal: bool = True) -> dict[str, int]:
    """The limits that are set for a model that was promised 11 GiB."""
    limits: dict[str, int] = {}
    mx = SimpleNamespace(
        metal=SimpleNamespace(is_available=lambda: has_metal),
        device_info=lambda: {"max_recommended_working_set_size": recommended},
        set_wired_limit=lambda size: limits.update(wired=size),
        set_memory_limit=lambda size: limits.update(memory=size),
        set_cache_limit=lambda size: limits.update(cache=size),
    )
    info = msgspec.structs.replace(
        estimate(build_config()), weights_bytes=8 * GIB, kv_bytes=2 * GIB, compute_bytes=GIB
    )
    build_loaded(mx, info).limit_memory()
    return limits


def build_loaded(mx: Any, info: ModelInfo) -> LoadedModel:
    library: Any = SimpleNamespace(mx=mx)
    vocabulary: Any = object.__new__(MlxVocabulary)
    return LoadedModel(library, None, vocabulary, info, SIZES)


def test_metal_wires_what_was_promised() -> None:
    assert limit_memory(48 * GIB) == {"wired": 11 * GIB, "memory": 12 * GIB, "cache": GIB}


def test_metal_wires_no_more_than_it_recommends() -> None:
    assert limit_memory(10 * GIB)["wired"] == 10 * GIB


def test_a_processor_has_no_limits() -> None:
    assert limit_memory(0, has_metal=False) == {}


def test_a_new_generator_is_followed_by_our_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx-lm's constructor wires the whole working set."""
    from services.engine.runner.mlx.sequence_batch import SequenceBatch

    calls: list[str] = []
    loaded = load(build_config(), lambda _: None)
    made = loaded.library.generator_class

    def make(*args: Any, **options: Any) -> Any:
        calls.append("generator")
        return made(*args, **options)

    library = load_library()
    monkeypatch.setattr(LoadedModel, "limit_memory", lambda _: calls.append("limits"))
    object.__setattr__(library, "generator_class", make)
    try:
        batch = SequenceBatch(loaded, build_config(), None)
        batch.restart()
        batch.close()
    finally:
        object.__setattr__(library, "generator_class", made)

    assert calls == ["generator", "limits"] * 2


def test_without_mlx_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx_lm", None)

    with pytest.raises(ModelLoadFailed, match="extra `mlx`"):
        load_library.__wrapped__()


def test_a_runner_process_estimates_a_load() -> None:
    with ChildRunner(build_config(), "--estimate") as runner:
        assert runner.wait_for_first(Ready).info == estimate(build_config())
