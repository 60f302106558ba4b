"""The tiny model in torch: functions of a llama over tensors with their safetensors names."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from tests.models.make_tiny.shape import (
    CONTEXT,
    EMBEDDING,
    EPSILON,
    FEED_FORWARD,
    HEAD_SIZE,
    HEADS,
    KV_HEADS,
    LAYERS,
    ROPE_BASE,
    VOCABULARY,
)

Tensor = Any  # torch is not installed where types are checked
Weights = dict[str, Tensor]

EMBED = "model.embed_tokens.weight"
NORM = "model.norm.weight"


def initial_weights() -> Weights:
    """Random weights that learn to copy fast. Uses the global random state of torch."""
    made: Weights = {EMBED: 0.02 * torch.randn(VOCABULARY, EMBEDDING), NORM: torch.ones(EMBEDDING)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name, (rows, columns) in _matrix_shapes().items():
            made[f"{at}{name}.weight"] = torch.randn(rows, columns) * columns**-0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{at}{name}.weight"] = torch.ones(EMBEDDING)
        if layer > 0:
            _initialise_for_copying(made, at + "self_attn.")
    return {name: weight.requires_grad_() for name, weight in made.items()}


def _matrix_shapes() -> dict[str, tuple[int, int]]:
    query, key = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    return {
        "self_attn.q_proj": (query, EMBEDDING),
        "self_attn.k_proj": (key, EMBEDDING),
        "self_attn.v_proj": (key, EMBEDDING),
        "self_attn.o_proj": (EMBEDDING, query),
        "mlp.gate_proj": (FEED_FORWARD, EMBEDDING),
        "mlp.up_proj": (FEED_FORWARD, EMBEDDING),
        "mlp.down_proj": (EMBEDDING, FEED_FORWARD),
    }


def _initialise_for_copying(weights: Weights, at: str) -> None:
    """Initialise heads to attend to their own token and to output it ("mimetic" initialisation).

    The model then learns to copy a name or a city from the prompt in minutes instead of hours.
    """
    group = HEADS // KV_HEADS
    for kv_head in range(KV_HEADS):
        rows = slice(kv_head * HEAD_SIZE, (kv_head + 1) * HEAD_SIZE)
        attend = torch.nn.init.orthogonal_(torch.empty(HEAD_SIZE, EMBEDDING))
        output = torch.nn.init.orthogonal_(torch.empty(HEAD_SIZE, EMBEDDING))
        weights[at + "k_proj.weight"][rows] += 0.7 * attend
        weights[at + "v_proj.weight"][rows] += 1.0 * output
        for head in range(kv_head * group, (kv_head + 1) * group):
            rows = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
            weights[at + "q_proj.weight"][rows] += 0.7 * attend
            weights[at + "o_proj.weight"][:, rows] += 0.5 * output.T


def rotations() -> tuple[Tensor, Tensor]:
    """The cosines and sines of every position, for `logits`."""
    halves = torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE
    angles = torch.outer(torch.arange(CONTEXT).float(), 1.0 / ROPE_BASE**halves)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def logits(weights: Weights, ids: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Compute [batch, length, VOCABULARY] logits from [batch, length] token ids."""
    length = ids.shape[1]
    cosines, sines = (part[:length] for part in rotation)
    x = functional.embedding(ids, weights[EMBED])
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        x = x + _attention(
            weights, at, _norm(x, weights[at + "input_layernorm.weight"]), cosines, sines
        )
        x = x + _feed_forward(
            weights, at, _norm(x, weights[at + "post_attention_layernorm.weight"])
        )
    return _norm(x, weights[NORM]) @ weights[EMBED].T


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, EPSILON)


def _attention(weights: Weights, at: str, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    batch, length, _ = x.shape

    def heads(name: str) -> Tensor:
        made = x @ weights[f"{at}self_attn.{name}_proj.weight"].T
        return made.view(batch, length, -1, HEAD_SIZE).transpose(1, 2)

    def rotate(part: Tensor) -> Tensor:
        left, right = part.chunk(2, -1)
        return part * cosines + torch.cat((-right, left), -1) * sines

    query, key, value = rotate(heads("q")), rotate(heads("k")), heads("v")
    key, value = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    flat = mixed.transpose(1, 2).reshape(batch, length, -1)
    return flat @ weights[at + "self_attn.o_proj.weight"].T


def _feed_forward(weights: Weights, at: str, x: Tensor) -> Tensor:
    gate = functional.silu(x @ weights[at + "mlp.gate_proj.weight"].T)
    up = x @ weights[at + "mlp.up_proj.weight"].T
    return (gate * up) @ weights[at + "mlp.down_proj.weight"].T
