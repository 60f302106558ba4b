"""What the engine of this version can load: the one place to change when it learns more.

A pull refuses what the engine cannot load, before the download where that is possible. The list of
architectures is the one of the engine's own llama.cpp; a test compares the two.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from services.shared.mlx_support import has_mlx, has_only_mlx
from services.shared.store.manifest import FileRole

# Whether the engine of this environment loads safetensors (MLX): where the extra `mlx` is installed.
LOADS_MLX = has_mlx()
LOADS_GGUF = not has_only_mlx()

# GGUF files of a model, beside its weights, that the engine reads. An adapter or a model that needs
# one would answer differently without it, so it is refused; the others are left out.
EXTRA_ROLES: frozenset[FileRole] = frozenset()

NO_MLX = (
    "the model has safetensors (MLX) only, and there is no engine for them here: the extra `mlx` is"
    " not installed; a GGUF of it can be pulled instead"
)
NO_GGUF = (
    "the model is a GGUF file, and there is no engine for those here: llama-cpp-python is not"
    " installed; an MLX model can be pulled instead"
)
NO_ADAPTERS = (
    "this model is a LoRA adapter on top of another model, which the engine cannot apply; pull a"
    " merged GGUF of it instead"
)
TEXT_ONLY = "The model's vision or audio part is not used by this version: it reads text only."


@cache
def llama_cpp_architectures() -> frozenset[str]:
    """`general.architecture` values of models that llama.cpp loads."""
    data = files("services.puller").joinpath("data", "llama_cpp_architectures.txt")
    lines = data.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))
