"""Write the tiny model as GGUF from the tensors and the tokenizer.json of its MLX folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from numpy.typing import NDArray

from tests.models.make_tiny import shape

Weights = Mapping[str, NDArray[np.floating]]

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(weights: Weights, tokenizer_json: Path, out: Path, *, quantised: bool) -> None:
    """Write matrices as q8_0 if `quantised`, otherwise as f16, and vectors as f32.

    Weights are rounded to f16 first in every format, so all formats contain the same model.
    """
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("tiny-test")
    kind = gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_F16
    writer.add_file_type(kind)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_dimensions(writer)
    _add_tokenizer(writer, json.loads(tokenizer_json.read_text(encoding="utf-8")))
    for name in tensor_names():
        weight = _to_gguf_layout(name, weights[name].astype(np.float16).astype(np.float32))
        if weight.ndim == 1:
            writer.add_tensor(to_gguf_name(name), weight)
        elif quantised:
            packed = gguf.quants.quantize(weight, GGMLQuantizationType.Q8_0)
            writer.add_tensor(to_gguf_name(name), packed, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(to_gguf_name(name), weight.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_names() -> list[str]:
    """The names of the tensors in safetensors, in the order of the GGUF."""
    blocks = [
        f"model.layers.{layer}.{part}.weight" for layer in range(shape.LAYERS) for part in _NAMES
    ]
    return ["model.embed_tokens.weight", *blocks, "model.norm.weight"]


def to_gguf_name(name: str) -> str:
    """`model.layers.0.self_attn.q_proj.weight` -> `blk.0.attn_q.weight`."""
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight"}.get(name, "output_norm.weight")
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _to_gguf_layout(name: str, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interleave the rotary rows, as GGUF's llama architecture requires; MLX keeps halves apart."""
    heads = {"q_proj": shape.HEADS, "k_proj": shape.KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, shape.HEAD_SIZE // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add_dimensions(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(shape.CONTEXT)
    writer.add_embedding_length(shape.EMBEDDING)
    writer.add_block_count(shape.LAYERS)
    writer.add_feed_forward_length(shape.FEED_FORWARD)
    writer.add_head_count(shape.HEADS)
    writer.add_head_count_kv(shape.KV_HEADS)
    writer.add_key_length(shape.HEAD_SIZE)
    writer.add_value_length(shape.HEAD_SIZE)
    writer.add_rope_dimension_count(shape.HEAD_SIZE)
    writer.add_rope_freq_base(shape.ROPE_BASE)
    writer.add_layer_norm_rms_eps(shape.EPSILON)
    writer.add_vocab_size(shape.VOCABULARY)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"])
    ids |= {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.PRE_TOKENISER)
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token) for token in tokens])
    # Older tokenizer.json files contain merges as text.
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_eos_token_id(ids[shape.END_OF_TURN])
    writer.add_pad_token_id(ids[shape.PADDING])
    writer.add_bos_token_id(ids[shape.PADDING])
    writer.add_add_bos_token(False)
    writer.add_chat_template(shape.CHAT_TEMPLATE)


def _token_type(token: str) -> TokenType:
    if token in shape.CONTROL:
        return TokenType.CONTROL
    return TokenType.USER_DEFINED if token in shape.USER_DEFINED else TokenType.NORMAL
