"""Make synthetic GGUF models with real architectures and dimensions, and random weights.

    python -m tests.models.synthetic qwen2.5-0.5b out.gguf --quant Q4_K_M [--vocab some.gguf]

Random weights cost the same time and memory as trained ones; only the text is meaningless. The
same preset, seed and vocabulary give the same bytes. `--vocab` copies the tokenizer of another
GGUF, which may be vocabulary-only; without it, a vocabulary of the right size is generated.
Requires numpy and gguf, and llama_cpp for `--quant`. Do not commit generated models.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Protocol

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.models import shapes, vocabulary
from tests.models.shapes import CONVOLUTION, PRESETS, STATE_SIZE, Kind, Shape, Tensor

# llama.h, enum llama_ftype
QUANTS = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}

_REPEATED_NORMALS = 1 << 24


class NormalSource(Protocol):
    """What numpy's Generator does here."""

    def standard_normal(
        self, size: tuple[int, ...], dtype: type[np.float32]
    ) -> NDArray[np.float32]:
        """Draw from the standard normal distribution."""


class RepeatedNormals:
    """The same numbers again and again: several times as fast, where the text does not matter."""

    def __init__(self, seed: int, count: int = _REPEATED_NORMALS) -> None:
        self._numbers = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)

    def standard_normal(
        self, size: tuple[int, ...], dtype: type[np.float32]
    ) -> NDArray[np.float32]:
        """See NormalSource. Each call begins with the first number."""
        return np.resize(self._numbers, size).astype(dtype, copy=False)


def make(
    preset: str,
    out: Path,
    *,
    quant: str | None = None,
    vocab: Path | None = None,
    seed: int = 0,
    is_fast: bool = False,
    has_infill: bool = False,
) -> Path:
    """Write the preset to `out` atomically, as f16 or quantised by llama.cpp.

    `is_fast` repeats the random weights, see RepeatedNormals. `has_infill`: as of the vocabulary.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out.parent) as folder:
        made = Path(folder) / "f16.gguf"
        random = RepeatedNormals(seed) if is_fast else np.random.default_rng(seed)
        write_f16(preset, made, random, vocab=vocab, has_infill=has_infill)
        if quant is not None:
            source, made = made, Path(folder) / "quantised.gguf"
            quantise(source, made, quant)
        made.replace(out)
    return out


def make_cached(preset: str, directory: Path) -> Path:
    """Make the preset with a generated vocabulary, once per directory and version of this code."""
    here = Path(__file__).parent
    sources = b"".join(
        (here / name).read_bytes() for name in ("synthetic.py", "shapes.py", "vocabulary.py")
    )
    path = directory / f"{preset}-{hashlib.sha256(sources).hexdigest()[:12]}.gguf"
    return path if path.exists() else make(preset, path)


def write_f16(
    preset: str,
    out: Path,
    random: NormalSource,
    *,
    vocab: Path | None = None,
    has_infill: bool = False,
) -> None:
    """Write tensor by tensor, so that the model may be larger than memory."""
    shape = PRESETS[preset]
    words = (
        vocabulary.read(vocab)
        if vocab
        else vocabulary.generate(shape.vocab_size, has_infill=has_infill)
    )
    shape = shapes.with_vocabulary(shape, vocabulary.size(words))
    writer = gguf.GGUFWriter(out, shape.kind.value)
    writer.add_name(f"synthetic-{preset}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_dimensions(writer, shape)
    vocabulary.write(writer, words)
    tensors = list(shapes.list_tensors(shape))
    for tensor in tensors:
        dtype = np.dtype(np.float16 if tensor.is_matrix else np.float32)
        byte_count = dtype.itemsize * int(np.prod(tensor.shape))
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, byte_count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_draw(tensor, random))
    writer.close()


def _draw(tensor: Tensor, random: NormalSource) -> NDArray[np.floating]:
    if tensor.values is not None:
        return tensor.values
    drawn = np.full(tensor.shape, tensor.mean, dtype=np.float32)
    if tensor.deviation:
        drawn += random.standard_normal(tensor.shape, np.float32) * tensor.deviation
    return drawn.astype(np.float16) if tensor.is_matrix else drawn


def _add_dimensions(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_feed_forward_length(shape.feed_forward)
    recurrent = [shape.is_recurrent(layer) for layer in range(shape.layers)]
    writer.add_head_count(shape.heads)
    if any(recurrent):
        writer.add_ssm_conv_kernel(CONVOLUTION)
        writer.add_ssm_inner_size(shape.state_inner)
        writer.add_ssm_state_size(STATE_SIZE)
        writer.add_ssm_time_step_rank(shape.time_step_rank)
    if all(recurrent):
        return
    # A hybrid lists its KV heads by layer: a recurrent layer has zero.
    per_layer = [0 if state else shape.kv_heads for state in recurrent]
    writer.add_head_count_kv(per_layer if any(recurrent) else shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    if shape.kind is not Kind.JAMBA:  # Jamba has no positions
        writer.add_rope_freq_base(shape.rope_base)
        writer.add_rope_dimension_count(shape.head_size)
    if shape.short_context:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(shape.short_context)
    if shape.window:
        writer.add_sliding_window(shape.window)


def quantise(source: Path, target: Path, quant: str) -> None:
    """Quantise a GGUF with llama.cpp's quantiser, on all cores."""
    from tests.models.llama import library

    llama = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype = QUANTS[quant]
    params.nthread = os.cpu_count() or 1
    status = llama.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(params)
    )
    if status != 0:
        raise RuntimeError(f"llama.cpp could not quantise to {quant}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.models.synthetic")
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quant", choices=QUANTS, help="quantisation; default: none, f16")
    parser.add_argument("--vocab", type=Path, help="a GGUF whose tokenizer is copied")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = make(
        options.preset, options.out, quant=options.quant, vocab=options.vocab, seed=options.seed
    )
    print(f"{made}  {made.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
