from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.engine.backends.llamacpp.compute_modules import choose_cpu_module, uses_amx
from services.engine.backends.llamacpp.library import load_library
from services.engine.backends.llamacpp.settings import build_model_parameters
from services.engine.core import LoadConfig


def module(level: str) -> Path:
    return Path(f"libggml-cpu-{level}.so")


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({"haswell": 64, "zen4": 1984, "sapphirerapids": 4032}, "zen4"),
        ({"x64": 1, "haswell": 64, "zen4": 0}, "haswell"),
        ({"x64": 1}, "x64"),
        ({"haswell": 0, "sapphirerapids": 4032}, None),
        ({}, None),
    ],
    ids=["AMX is left out", "the highest score", "the only one", "none is usable", "none"],
)
def test_the_fastest_module_without_amx_is_chosen(scores: dict[str, int], best: str | None) -> None:
    found = choose_cpu_module({module(level): score for level, score in scores.items()})

    assert found == (module(best) if best is not None else None)


def test_this_build_does_not_compute_with_amx() -> None:
    assert (
        not uses_amx(load_library())
        or not build_model_parameters(load_library(), config()).use_extra_bufts
    )


@pytest.mark.parametrize("has_amx", [True, False])
def test_extra_buffers_are_off_exactly_where_amx_is_compiled_in(has_amx: bool) -> None:
    info = b"CPU : AVX2 = 1 | AMX_INT8 = 1 |" if has_amx else b"CPU : AVX2 = 1 |"
    library = SimpleNamespace(
        llama_model_default_params=lambda: SimpleNamespace(use_extra_bufts=True),
        llama_print_system_info=lambda: info,
    )

    assert build_model_parameters(cast("Any", library), config()).use_extra_bufts is not has_amx


def config() -> LoadConfig:
    return LoadConfig(model_path="/models/tiny.gguf", backend="llamacpp", context_length=256)
