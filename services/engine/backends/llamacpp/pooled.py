"""A llama.cpp context that pools: one vector, or one row of scores, for each text.

llama.cpp calls abort() for more tokens than n_ubatch where a text cannot be split, for tokens
outside of the vocabulary's positions, and for an unknown pooling. What the facts say keeps within
these limits, and `run` checks it. Such a context outputs every token, so each step has a row of the
whole vocabulary per token: see `output_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from services.engine.backends.base import Step
from services.engine.backends.errors import BackendError
from services.engine.backends.llamacpp.batch import build_batch
from services.engine.backends.llamacpp.failures import build_load_error
from services.engine.backends.llamacpp.library import capture_log
from services.engine.backends.llamacpp.model import LlamaModel
from services.engine.backends.llamacpp.settings import build_context_parameters, place_layers
from services.engine.backends.llamacpp.sizes import parse_sizes
from services.engine.backends.pooling import PairFormat, Pooling, PoolingFacts, Vectors
from services.engine.core import CONTEXT_STEP, HOST, LoadConfig

_POOLINGS: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama_pooling_type
_NUMBERS = {pooling: number for number, pooling in _POOLINGS.items()}
_BATCH_TOKENS = 512
_MAX_TEXTS = 64
_MAX_RECURRENT_TEXTS = 8  # each has a state
# Of a text that is computed at once: its buffers grow with it. With a GPU, the output buffer is
# memory that cannot be swapped, a row of the vocabulary for each token.
_MAX_WHOLE_TOKENS = 8192
_MAX_WHOLE_TOKENS_WITH_GPU = 2048
# These put a softmax over "yes" and "no" behind the last token (llm_graph_context::build_pooling).
_YES_NO_RANKERS = frozenset({"qwen3", "qwen3vl"})


class LlamaPooledModel:
    """See PooledModel."""

    def __init__(self, lib: ModuleType, model: LlamaModel, config: LoadConfig) -> None:
        self.facts = read_facts(lib, model, config)
        self._lib = lib
        self._model = model
        self._config = config
        self._context: LlamaPooledContext | None = None

    @property
    def is_open(self) -> bool:
        """See PooledModel.is_open."""
        return self._context is not None

    def open(self) -> LlamaPooledContext:
        """See PooledModel.open."""
        if self._context is None:
            self._context = LlamaPooledContext(self._lib, self._model, self._config, self.facts)
        return self._context

    def close(self) -> None:
        """Free the context, before the weights. Safe to call twice."""
        if self._context is not None:
            self._context.close()
            self._context = None


class LlamaPooledContext:
    """See PooledContext."""

    def __init__(
        self, lib: ModuleType, model: LlamaModel, config: LoadConfig, facts: PoolingFacts
    ) -> None:
        """Create the context. Raises ModelLoadFailed where that is not possible."""
        self._lib = lib
        self._facts = facts
        params = _build_parameters(lib, model, config, facts)
        with capture_log() as lines:
            self.handle = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise build_load_error(lines)
        sizes = parse_sizes(lines, config.devices)
        self.output_bytes = count_output_bytes(model, config, facts)
        pools = sizes.pool_bytes(weights_bytes=0, layers=place_layers(config, model.layers))
        pools[HOST] = pools.get(HOST, 0) + self.output_bytes
        self.pool_bytes: Mapping[str, int] = pools
        self._is_encoder = model.is_encoder
        self._memory = None if self._is_encoder else lib.llama_get_memory(self.handle)
        self._vocab_size = model.vocabulary.size
        self._lengths = np.zeros(facts.max_texts, np.int32)
        self._is_spoiled = False  # the memory may have numbers that are not finite
        self.step = Step.with_capacity(int(params.n_batch))
        self._positions = np.zeros(len(self.step.tokens), np.int32)
        self._batch, self._kept = build_batch(lib, self.step, self._positions)

    def run(self, parts: Sequence[Sequence[int]]) -> Vectors:
        """See PooledContext.run."""
        self._check(parts)
        start = 0
        for sequence, part in enumerate(parts):
            end = start + len(part)
            self.step.tokens[start:end] = part
            self.step.sequences[start:end] = sequence
            length = int(self._lengths[sequence])
            self._positions[start:end] = np.arange(length, length + len(part))
            start = end
        self.step.wants_logits[:start] = 1  # all are outputs in any case; llama.cpp warns otherwise
        self._batch.n_tokens = self.step.size = start
        # An encoder has no memory. It is called by its name, since T5's would be decoded otherwise.
        compute = self._lib.llama_encode if self._is_encoder else self._lib.llama_decode
        status = compute(self.handle, self._batch)
        if status != 0:
            raise BackendError(f"the pooled computation returned {status}")
        self._lib.llama_synchronize(self.handle)
        self._lengths[: len(parts)] += [len(part) for part in parts]
        rows = np.stack([self._read_row(sequence) for sequence in range(len(parts))])
        self._is_spoiled |= not np.isfinite(rows).all()
        return rows

    def clear(self) -> None:
        """See PooledContext.clear."""
        if self._memory:
            # Attention multiplies what is left in free cells by zero: that must be a number.
            self._lib.llama_memory_clear(self._memory, self._is_spoiled)
        self._is_spoiled = False
        self._lengths[:] = 0

    def close(self) -> None:
        """Free memory and buffers. Safe to call twice."""
        if self.handle is not None:
            self._lib.llama_free(self.handle)
            self.handle = None

    def _check(self, parts: Sequence[Sequence[int]]) -> None:
        tokens = np.concatenate([np.asarray(part, np.int64) for part in parts]) if parts else None
        if tokens is None or not all(parts) or len(parts) > self._facts.max_texts:
            raise BackendError("no texts, an empty one, or too many at once")
        if len(tokens) > len(self.step.tokens):
            raise BackendError("more tokens at once than the context computes")
        if tokens.min() < 0 or tokens.max() >= self._vocab_size:
            raise BackendError("token outside of the vocabulary")
        ends = [int(n) + len(part) for n, part in zip(self._lengths, parts, strict=False)]
        if max(ends) > self._facts.max_tokens:
            raise BackendError("a text is longer than the context")
        if self._lengths.any() and not self._facts.takes_parts:
            raise BackendError("this pooling needs the whole text at once")

    def _read_row(self, sequence: int) -> Vectors:
        pointer = self._lib.llama_get_embeddings_seq(self.handle, sequence)
        if not pointer:
            raise BackendError("llama.cpp returned no vector")
        return np.ctypeslib.as_array(pointer, (self._facts.dimensions,)).copy()


def read_facts(lib: ModuleType, model: LlamaModel, config: LoadConfig) -> PoolingFacts:
    """Read how the model pools.

    A model that does not say it is pooled at its last token, which alone sees the whole text; an
    encoder by the mean.
    """
    pooling = _POOLINGS.get(model.read_number("pooling_type") or 0)
    if pooling is None:
        pooling = "mean" if model.is_encoder else "last"
    is_yes_no = pooling == "rank" and model.architecture in _YES_NO_RANKERS
    is_causal = not model.is_encoder and model.read_text("attention.causal") != "false"
    takes_parts = is_causal and (pooling == "last" or is_yes_no)
    max_tokens = min(config.context_length, model.trained_context_length or config.context_length)
    if not takes_parts:
        limit = _MAX_WHOLE_TOKENS_WITH_GPU if config.devices else _MAX_WHOLE_TOKENS
        max_tokens = min(max_tokens, limit)
    vocab = model.vocabulary.native
    is_rank = pooling == "rank"
    size = lib.llama_model_n_cls_out if is_rank else lib.llama_model_n_embd_out
    return PoolingFacts(
        pooling=pooling,
        dimensions=int(size(model.handle)),
        max_tokens=max_tokens,
        batch_tokens=min(_BATCH_TOKENS, max_tokens),
        max_texts=_MAX_RECURRENT_TEXTS if model.is_recurrent else _MAX_TEXTS,
        takes_parts=takes_parts,
        ends_with_special=bool(
            lib.llama_vocab_get_add_eos(vocab) or lib.llama_vocab_get_add_sep(vocab)
        ),
        pair_format=_read_pair_format(lib, model, vocab) if is_rank else PairFormat(),
        is_probability=is_yes_no,
    )


def count_output_bytes(model: LlamaModel, config: LoadConfig, facts: PoolingFacts) -> int:
    """Bytes of the rows of the vocabulary, which llama.cpp allocates when they are needed.

    An encoder has no such rows. Its buffer is never written, and takes memory with a GPU only,
    where it is pinned.
    """
    if model.is_encoder and not config.devices:
        return 0
    return 4 * model.vocabulary.size * _count_batch_tokens(facts)


def _count_batch_tokens(facts: PoolingFacts) -> int:
    return facts.batch_tokens if facts.takes_parts else max(facts.batch_tokens, facts.max_tokens)


def _build_parameters(
    lib: ModuleType, model: LlamaModel, config: LoadConfig, facts: PoolingFacts
) -> Any:
    params = build_context_parameters(lib, config, is_recurrent=model.is_recurrent)
    params.n_batch = params.n_ubatch = _count_batch_tokens(facts)
    params.n_ctx = -(-facts.max_tokens // CONTEXT_STEP) * CONTEXT_STEP
    params.n_seq_max = facts.max_texts
    params.kv_unified = True
    params.n_outputs_max = 0  # every token
    params.embeddings = True
    params.pooling_type = _NUMBERS[facts.pooling]
    return params


def _read_pair_format(lib: ModuleType, model: LlamaModel, vocab: Any) -> PairFormat:
    """The model's own template, else the control tokens that its vocabulary adds to a text.

    That is how llama-server builds a pair, but that a document too ends as every text does: BERT
    was trained with a separator behind both.
    """
    template = lib.llama_model_chat_template(model.handle, b"rerank")
    if template and b"{query}" in template and b"{document}" in template:
        return PairFormat(template=template.decode("utf-8", "replace"))
    end = int(lib.llama_vocab_eos(vocab))
    separator = int(lib.llama_vocab_sep(vocab))
    ends = (end if end >= 0 else separator,) if lib.llama_vocab_get_add_eos(vocab) else ()
    separators = (separator,) if lib.llama_vocab_get_add_sep(vocab) else ()
    starts = (int(lib.llama_vocab_bos(vocab)),) if lib.llama_vocab_get_add_bos(vocab) else ()
    return PairFormat(before=starts, between=ends + separators, after=ends or separators)
