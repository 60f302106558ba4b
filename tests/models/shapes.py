"""The shapes of the synthetic models: presets by name, and the list of tensors of each shape.

Pure: converts sizes to names and distributions. Real presets have the published dimensions of the
model they are named after, so they cost the same time and memory. Tiny presets have less than 2 MB
and cover each kind of memory: dense, sliding window, recurrent, and hybrid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Kind(Enum):
    """The architecture, by its name in GGUF."""

    QWEN2 = "qwen2"
    LLAMA = "llama"
    GEMMA3 = "gemma3"
    MAMBA = "mamba"
    JAMBA = "jamba"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of one model. `window` is in tokens; 0 means full attention."""

    kind: Kind
    vocab_size: int
    embedding: int
    layers: int
    context: int
    feed_forward: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    window: int = 0
    short_context: int = 0  # longer ones get other positions (LongRoPE); 0: none
    attention_every: int = 1  # in a hybrid, every n-th layer is attention, the others recurrent
    rope_base: float = 1e6
    epsilon: float = 1e-6

    @property
    def state_inner(self) -> int:
        """Number of channels of a recurrent layer."""
        return 2 * self.embedding

    @property
    def time_step_rank(self) -> int:
        """Rank of the time step of a recurrent layer."""
        return max(1, self.embedding // 16)

    def is_recurrent(self, layer: int) -> bool:
        """Whether this layer has a recurrent state instead of keys and values."""
        if self.kind is Kind.JAMBA:
            return (layer + 1) % self.attention_every != 0
        return self.kind is Kind.MAMBA


STATE_SIZE = 16
CONVOLUTION = 4
# With unit scale, queries and keys attend to all tokens alike, and the answer soon repeats one
# token. Sharper attention keeps the answer dependent on single tokens of the prompt.
SHARPNESS = 2.0

_TINY = Shape(
    kind=Kind.QWEN2, vocab_size=1024, embedding=128, layers=3, context=8192,
    feed_forward=128, heads=2, kv_heads=1, head_size=64,
)  # fmt: skip

PRESETS: dict[str, Shape] = {
    "qwen2.5-0.5b": Shape(
        kind=Kind.QWEN2, vocab_size=151936, embedding=896, layers=24, context=32768,
        feed_forward=4864, heads=14, kv_heads=2, head_size=64,
    ),
    "qwen2.5-7b": Shape(
        kind=Kind.QWEN2, vocab_size=152064, embedding=3584, layers=28, context=32768,
        feed_forward=18944, heads=28, kv_heads=4, head_size=128,
    ),
    "llama3.2-1b": Shape(
        kind=Kind.LLAMA, vocab_size=128256, embedding=2048, layers=16, context=131072,
        feed_forward=8192, heads=32, kv_heads=8, head_size=64, rope_base=5e5, epsilon=1e-5,
    ),
    "llama3.1-8b": Shape(
        kind=Kind.LLAMA, vocab_size=128256, embedding=4096, layers=32, context=131072,
        feed_forward=14336, heads=32, kv_heads=8, head_size=128, rope_base=5e5, epsilon=1e-5,
    ),
    "gemma3-1b": Shape(
        kind=Kind.GEMMA3, vocab_size=262144, embedding=1152, layers=26, context=32768,
        feed_forward=6912, heads=4, kv_heads=1, head_size=256, window=512,
    ),
    "mamba-130m": Shape(
        kind=Kind.MAMBA, vocab_size=50280, embedding=768, layers=24, context=1048576,
        epsilon=1e-5,
    ),
    "tiny-dense": _TINY,
    "tiny-longrope": replace(_TINY, kind=Kind.LLAMA, short_context=512),
    "tiny-window": replace(_TINY, kind=Kind.GEMMA3, layers=6, window=128),
    "tiny-recurrent": replace(_TINY, kind=Kind.MAMBA, feed_forward=0, heads=0, kv_heads=0),
    "tiny-hybrid": replace(_TINY, kind=Kind.JAMBA, layers=4, attention_every=2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A normal distribution of this shape, or fixed `values`. Rows come first, as in numpy."""

    name: str
    shape: tuple[int, ...]
    mean: float = 0.0
    deviation: float = 0.0
    values: NDArray[np.float32] | None = None

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight matrix, which may have fewer bits; all others stay float32."""
        return (
            len(self.shape) == 2 and self.values is None and not self.name.endswith("conv1d.weight")
        )


def list_tensors(shape: Shape) -> Iterator[Tensor]:
    """Yield every tensor of the model, in the order of the file."""
    # With a variance of 1/fan_in the layers dominate the residual stream, so greedy output depends
    # on the whole context. A small uniform scale makes a tied model repeat its last token.
    yield Tensor("token_embd.weight", (shape.vocab_size, shape.embedding), deviation=0.04)
    yield _ones("output_norm.weight", shape.embedding)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield _ones(at + "attn_norm.weight", shape.embedding)
        yield from (_list_recurrent if shape.is_recurrent(layer) else _list_attention)(shape, at)
        if shape.feed_forward:
            yield from _list_feed_forward(shape, at)
    if shape.short_context:
        for name, last in (("short", 1.0), ("long", 16.0)):
            factors = np.linspace(1.0, last, shape.head_size // 2, dtype=np.float32)
            yield Tensor(f"rope_factors_{name}.weight", factors.shape, values=factors)
    elif shape.kind is Kind.LLAMA:
        factors = llama3_frequency_factors(shape.head_size, shape.rope_base)
        yield Tensor("rope_freqs.weight", factors.shape, values=factors)


def _list_attention(shape: Shape, at: str) -> Iterator[Tensor]:
    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    for name, rows in (("q", query), ("k", key), ("v", key)):
        gain = 1.0 if name == "v" else SHARPNESS
        yield _matrix(f"{at}attn_{name}.weight", rows, shape.embedding, gain)
        if shape.kind is Kind.QWEN2:
            yield Tensor(f"{at}attn_{name}.bias", (rows,), deviation=0.1)
    yield _matrix(at + "attn_output.weight", shape.embedding, query)
    if shape.kind is Kind.GEMMA3:
        for name in "qk":
            yield Tensor(f"{at}attn_{name}_norm.weight", (shape.head_size,), mean=SHARPNESS)
        yield _ones(at + "post_attention_norm.weight", shape.embedding)
        yield _ones(at + "post_ffw_norm.weight", shape.embedding)


def _list_feed_forward(shape: Shape, at: str) -> Iterator[Tensor]:
    yield _ones(at + "ffn_norm.weight", shape.embedding)
    yield _matrix(at + "ffn_gate.weight", shape.feed_forward, shape.embedding)
    yield _matrix(at + "ffn_up.weight", shape.feed_forward, shape.embedding)
    yield _matrix(at + "ffn_down.weight", shape.embedding, shape.feed_forward)


def _list_recurrent(shape: Shape, at: str) -> Iterator[Tensor]:
    inner, rank = shape.state_inner, shape.time_step_rank
    yield _matrix(at + "ssm_in.weight", 2 * inner, shape.embedding)
    yield Tensor(at + "ssm_conv1d.weight", (inner, CONVOLUTION), deviation=0.5)
    yield Tensor(at + "ssm_conv1d.bias", (inner,))
    # The state must weigh more than the direct path (ssm_d), otherwise the past has no effect.
    yield _matrix(at + "ssm_x.weight", rank + 2 * STATE_SIZE, inner, gain=4.0)
    yield _matrix(at + "ssm_dt.weight", inner, rank)
    # Time steps from 0.001 to 0.1: channels forget after ten to a thousand tokens.
    yield Tensor(at + "ssm_dt.bias", (inner,), mean=-4.5, deviation=1.2)
    if shape.kind is Kind.JAMBA:
        yield _ones(at + "ssm_dt_norm.weight", rank)
        yield _ones(at + "ssm_b_norm.weight", STATE_SIZE)
        yield _ones(at + "ssm_c_norm.weight", STATE_SIZE)
    decay = -np.tile(np.arange(1, STATE_SIZE + 1, dtype=np.float32), (inner, 1))
    yield Tensor(at + "ssm_a", decay.shape, values=decay)
    yield Tensor(at + "ssm_d", (inner,), mean=0.1)
    yield _matrix(at + "ssm_out.weight", shape.embedding, inner)


def _matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
    return Tensor(name, (rows, columns), deviation=gain * columns**-0.5)


def _ones(name: str, size: int) -> Tensor:
    return Tensor(name, (size,), mean=1.0)


def llama3_frequency_factors(head_size: int, base: float) -> NDArray[np.float32]:
    """Llama 3's rope scaling as divisors: factor 32, low 1, high 4, trained with 8192 tokens."""
    frequencies = 1.0 / base ** (np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    wavelength = 2 * np.pi / frequencies
    smooth = np.clip((8192 / wavelength - 1.0) / 3.0, 0.0, 1.0)
    return (1 / ((1 - smooth) / 32.0 + smooth)).astype(np.float32)


def with_vocabulary(shape: Shape, vocab_size: int) -> Shape:
    """The same shape with another vocabulary size."""
    return replace(shape, vocab_size=vocab_size)
