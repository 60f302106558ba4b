"""Make tiny GGUF models that embed or rank, with random weights: BERT and Qwen3.

    bert-mean, bert-cls       embeddings by an encoder with a WordPiece vocabulary
    bert-rank                 scores by an encoder with a classification head
    qwen3-last, qwen3-rank    the same by a decoder; its ranking template is in the file

Each has less than 1 MB, 64 tokens (BERT) or 4096 (Qwen3) of context, and vectors of 64 numbers.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase, digits

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.models import vocabulary

NAMES = ("bert-mean", "bert-cls", "bert-rank", "qwen3-last", "qwen3-rank")
DIMENSIONS = 64
BERT_CONTEXT = 64
QWEN3_CONTEXT = 4096
RANK_TEMPLATE = "<|im_start|>{query}<|im_end|>{document}<|im_end|>"
_LAYERS, _FEED_FORWARD, _HEADS = 2, 96, 2
_WORDS = ("paris", "rome", "france", "italy", "capital", "of", "the", "is", "cat", "dog")
_POOLINGS = {
    "mean": gguf.PoolingType.MEAN,
    "cls": gguf.PoolingType.CLS,
    "last": gguf.PoolingType.LAST,
    "rank": gguf.PoolingType.RANK,
}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Tensors = Iterator[tuple[str, NDArray[np.float32]]]


def make_cached(name: str, directory: Path) -> Path:
    """Make a model, once per directory and version of this code."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    path = directory / f"{name}-{version}.gguf"
    return path if path.exists() else make(name, path)


def make(name: str, out: Path) -> Path:
    """Write one of NAMES."""
    architecture, pooling = name.split("-")
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(out, architecture)
    writer.add_name(f"synthetic-{name}")
    writer.add_embedding_length(DIMENSIONS)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_pooling_type(_POOLINGS[pooling])
    if architecture == "bert":
        size = _write_bert_header(writer)
        tensors = _list_bert(random, size)
    else:
        size = _write_qwen3_header(writer)
        tensors = _list_qwen3(random, size)
    for tensor, values in tensors:
        writer.add_tensor(tensor, values)
    if pooling == "rank":
        _add_head(writer, random, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def spoil(path: Path, out: Path, *, token: int) -> Path:
    """A copy of a model that computes no finite numbers for a text with this token."""
    shutil.copy(path, out)
    reader = gguf.GGUFReader(out, "r+")
    (embeddings,) = (t for t in reader.tensors if t.name == "token_embd.weight")
    embeddings.data[token] = np.nan
    reader.data.flush()
    return out


def _write_bert_header(writer: gguf.GGUFWriter) -> int:
    # In GGUF a piece that starts a word has the mark of a space, and the others have none.
    letters = (*ascii_lowercase, *digits, ".", "?")
    tokens = [*_SPECIAL, *(f"▁{piece}" for piece in (*letters, *_WORDS)), *letters]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_context_length(BERT_CONTEXT)
    writer.add_layer_norm_eps(1e-6)
    writer.add_causal_attention(False)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in _SPECIAL else normal for token in tokens])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    return len(tokens)


def _write_qwen3_header(writer: gguf.GGUFWriter) -> int:
    words = vocabulary.generate(1024)
    writer.add_context_length(QWEN3_CONTEXT)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_head_count_kv(1)
    writer.add_key_length(DIMENSIONS // _HEADS)
    writer.add_value_length(DIMENSIONS // _HEADS)
    writer.add_rope_freq_base(1e6)
    vocabulary.write(writer, words)
    return vocabulary.size(words)


def _list_bert(random: np.random.Generator, size: int) -> Tensors:
    yield "token_embd.weight", _matrix(random, size, DIMENSIONS)
    yield "token_types.weight", _matrix(random, 2, DIMENSIONS)
    yield "position_embd.weight", _matrix(random, BERT_CONTEXT, DIMENSIONS)
    yield from _list_norm("token_embd_norm")
    for layer in range(_LAYERS):
        at = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{at}{name}.weight", _matrix(random, DIMENSIONS, DIMENSIONS)
            yield f"{at}{name}.bias", np.zeros(DIMENSIONS, np.float32)
        yield from _list_norm(at + "attn_output_norm")
        yield at + "ffn_up.weight", _matrix(random, _FEED_FORWARD, DIMENSIONS)
        yield at + "ffn_up.bias", np.zeros(_FEED_FORWARD, np.float32)
        yield at + "ffn_down.weight", _matrix(random, DIMENSIONS, _FEED_FORWARD)
        yield at + "ffn_down.bias", np.zeros(DIMENSIONS, np.float32)
        yield from _list_norm(at + "layer_output_norm")


def _list_qwen3(random: np.random.Generator, size: int) -> Tensors:
    head = DIMENSIONS // _HEADS
    yield "token_embd.weight", _matrix(random, size, DIMENSIONS)
    yield "output_norm.weight", np.ones(DIMENSIONS, np.float32)
    for layer in range(_LAYERS):
        at = f"blk.{layer}."
        yield at + "attn_norm.weight", np.ones(DIMENSIONS, np.float32)
        for name, rows in (("attn_q", DIMENSIONS), ("attn_k", head), ("attn_v", head)):
            yield f"{at}{name}.weight", _matrix(random, rows, DIMENSIONS)
        yield at + "attn_q_norm.weight", np.ones(head, np.float32)
        yield at + "attn_k_norm.weight", np.ones(head, np.float32)
        yield at + "attn_output.weight", _matrix(random, DIMENSIONS, DIMENSIONS)
        yield at + "ffn_norm.weight", np.ones(DIMENSIONS, np.float32)
        yield at + "ffn_gate.weight", _matrix(random, _FEED_FORWARD, DIMENSIONS)
        yield at + "ffn_up.weight", _matrix(random, _FEED_FORWARD, DIMENSIONS)
        yield at + "ffn_down.weight", _matrix(random, DIMENSIONS, _FEED_FORWARD)


def _add_head(writer: gguf.GGUFWriter, random: np.random.Generator, architecture: str) -> None:
    if architecture == "bert":
        writer.add_tensor("cls.weight", _matrix(random, DIMENSIONS, DIMENSIONS))
        writer.add_tensor("cls.bias", np.zeros(DIMENSIONS, np.float32))
        writer.add_tensor("cls.output.weight", _matrix(random, 1, DIMENSIONS))
        return
    writer.add_tensor("cls.output.weight", _matrix(random, 2, DIMENSIONS))
    writer.add_classifier_output_labels(["yes", "no"])
    writer.add_string("tokenizer.chat_template.rerank", RANK_TEMPLATE)


def _list_norm(name: str) -> Tensors:
    yield name + ".weight", np.ones(DIMENSIONS, np.float32)
    yield name + ".bias", np.zeros(DIMENSIONS, np.float32)


def _matrix(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    drawn = random.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(drawn * columns**-0.5, np.float32)
