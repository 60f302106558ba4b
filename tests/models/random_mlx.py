"""MLX folders of kinds that the tiny model is not, with random weights and its tokenizer."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from services.engine.backends.mlx.library import load_library
from tests.conftest import TINY_MLX

_COMMON: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": [1017, 1015],
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "mlx-window": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "sliding_window": 32,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
    },
    "mlx-recurrent": {
        "model_type": "mamba2",
        "num_hidden_layers": 3,
        "num_heads": 8,
        "state_size": 16,
        "ssm_state_size": 16,
        "n_groups": 1,
        "conv_kernel": 4,
        "expand": 2,
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": "auto",
    },
}


def write_random_mlx(name: str, folder: Path) -> Path:
    """Write one of the models above into a new folder, always with the same weights."""
    library = load_library()
    config = _COMMON | _CONFIGS[name]
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    library.mx.random.seed(1)
    model = module.Model(module.ModelArgs.from_dict(config))
    weights = dict(library.tree_flatten(model.parameters()))
    folder.mkdir()
    library.mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_MLX / file, folder / file)
    return folder
