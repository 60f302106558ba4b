"""Run `python -m llama_cpp.server` with the compute modules that the engine loads.

A llama.cpp build with loadable CPU modules has no backend until a caller registers one, and the
binding registers none. AMX is left out, as in the engine. Everything else is unchanged.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from services.engine.backends.llamacpp import library
from services.engine.backends.llamacpp.compute_modules import uses_amx


def main() -> None:
    avoid_amx_layout(library.load_library().llama_cpp)
    from llama_cpp.server.__main__ import main as serve

    serve()  # type: ignore[no-untyped-call]


def avoid_amx_layout(binding: ModuleType) -> None:
    """Keep the weights out of AMX's layout where AMX is compiled into the library."""
    default_params = binding.llama_model_default_params

    def params() -> Any:
        result = default_params()
        result.use_extra_bufts = not uses_amx(binding)
        return result

    binding.llama_model_default_params = params  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
