"""Vectors of texts from an MLX model: the last hidden states, pooled as its folder says.

mlx-lm's models are a body, which computes hidden states, and a head, which makes logits of them;
here the body is called alone. All its models are causal, so a text does not see what pads it. A
folder made with sentence-transformers says in 1_Pooling/config.json how the states of a text become
one vector; without that file it is the state of the last token, which alone sees the whole text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.engine.backends.errors import BackendError
from services.engine.backends.mlx.folder import find_text_config, read_config, read_json
from services.engine.backends.mlx.library import MlxLibrary
from services.engine.backends.mlx.loading import LoadedModel
from services.engine.backends.mlx.vocabulary import MlxVocabulary
from services.engine.backends.pooling import Pooling, PoolingFacts, Vectors
from services.engine.core import HOST, LoadConfig, TextPiece

logger = logging.getLogger(__name__)

_BODIES = ("model", "backbone", "transformer")  # what mlx-lm's classes call it
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
_BATCH_TOKENS = 512
_MAX_TEXTS = 64
# Of a text that is computed at once: its activations grow with it, and answers wait meanwhile.
_MAX_WHOLE_TOKENS = 2048


class MlxPooledModel:
    """See PooledModel. The thread of MLX only, but for the facts."""

    def __init__(
        self, loaded: LoadedModel, body: Any, facts: PoolingFacts, size_bytes: int
    ) -> None:
        self.facts = facts
        self._loaded: LoadedModel | None = loaded
        self._body = body
        self._size_bytes = size_bytes
        self._context: MlxPooledContext | None = None

    @property
    def is_open(self) -> bool:
        """See PooledModel.is_open."""
        return self._context is not None

    def open(self) -> MlxPooledContext:
        """See PooledModel.open."""
        if self._context is None:
            assert self._loaded is not None, "the model is closed"
            pools = {HOST: self._size_bytes}
            self._context = MlxPooledContext(self._loaded, self._body, self.facts, pools)
        return self._context

    def close(self) -> None:
        """Let go of the weights. Safe to call twice."""
        self._loaded = self._body = self._context = None


class MlxPooledContext:
    """See PooledContext. A text of several parts is computed alone."""

    def __init__(
        self, loaded: LoadedModel, body: Any, facts: PoolingFacts, pool_bytes: Mapping[str, int]
    ) -> None:
        self.pool_bytes = pool_bytes
        self._loaded = loaded
        self._body = body
        self._facts = facts
        self._caches: list[Any] | None = None
        self._done = 0  # tokens in the caches

    def run(self, parts: Sequence[Sequence[int]]) -> Vectors:
        """See PooledContext.run."""
        self._check(parts)
        if self._facts.takes_parts and len(parts) == 1:
            return self._continue(parts[0])
        rows = np.empty((len(parts), self._facts.dimensions), np.float32)
        for group in _group(parts, self._facts.batch_tokens):
            rows[group] = self._pool([parts[index] for index in group])
        return rows

    def clear(self) -> None:
        """See PooledContext.clear."""
        self._caches, self._done = None, 0

    def _continue(self, part: Sequence[int]) -> Vectors:
        mx = self._loaded.library.mx
        self._caches = self._caches or self._loaded.make_caches()
        hidden = self._body(mx.array([list(part)]), cache=self._caches)[:, -1]
        mx.eval(hidden, [cache.state for cache in self._caches])
        self._done += len(part)
        return np.array(hidden.astype(mx.float32))

    def _pool(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """The vectors of whole texts, which are padded behind their ends."""
        mx = self._loaded.library.mx
        longest = max(map(len, texts))
        lengths = mx.array([len(text) for text in texts])
        padded = [[*text, *[0] * (longest - len(text))] for text in texts]
        hidden = self._body(mx.array(padded)).astype(mx.float32)
        match self._facts.pooling:
            case "mean":
                is_text = mx.arange(longest) < lengths[:, None]
                sums = mx.where(is_text[..., None], hidden, 0).sum(axis=1)
                return np.array(sums / lengths[:, None])
            case "cls":
                return np.array(hidden[:, 0])
            case _:
                return np.array(hidden[mx.arange(len(texts)), lengths - 1])

    def _check(self, parts: Sequence[Sequence[int]]) -> None:
        if not parts or not all(parts) or len(parts) > self._facts.max_texts:
            raise BackendError("no texts, an empty one, or too many at once")
        if self._done and len(parts) > 1:
            raise BackendError("a text of several parts is computed alone")
        if self._done + max(map(len, parts)) > self._facts.max_tokens:
            raise BackendError("a text is longer than the context")
        size = self._loaded.vocabulary.size
        if not all(0 <= token < size for part in parts for token in part):
            raise BackendError("token outside of the vocabulary")


def find_pooled_model(loaded: LoadedModel, config: LoadConfig) -> MlxPooledModel | None:
    """The part of a loaded model that computes vectors; None where we cannot call it."""
    folder = Path(config.model_path)
    model_config = read_config(folder)
    pooling = _read_pooling(folder)
    body = _find_body(loaded.model)
    dimensions = _measure(loaded.library, body)
    is_causal = not find_text_config(model_config).get("use_bidirectional_attention")
    if pooling is None or not dimensions or not is_causal:
        logger.info("the model computes no embeddings", extra={"type": model_config["model_type"]})
        return None
    takes_parts = pooling == "last"
    max_tokens = min(config.context_length, loaded.info.trained_context_length or 1 << 30)
    if not takes_parts:
        max_tokens = min(max_tokens, _MAX_WHOLE_TOKENS)
    facts = PoolingFacts(
        pooling=pooling,
        dimensions=dimensions,
        max_tokens=max_tokens,
        batch_tokens=min(_BATCH_TOKENS, max_tokens),
        max_texts=_MAX_TEXTS,
        takes_parts=takes_parts,
        ends_with_special=_ends_with_special(loaded.vocabulary),
    )
    sizes = loaded.sizes
    rows = facts.batch_tokens if takes_parts else max(facts.batch_tokens, max_tokens)
    size_bytes = sizes.compute_activation_bytes(rows, model_config)
    if takes_parts:
        size_bytes += max_tokens * sizes.token_bytes + sizes.sequence_bytes
    return MlxPooledModel(loaded, body, facts, size_bytes)


def _read_pooling(folder: Path) -> Pooling | None:
    """How the folder says that its model pools; None for a way, or several, that we have not.

    Nor have we the layers that sentence-transformers put behind the pooling of some models.
    """
    if any(folder.glob("*_Dense/config.json")):
        return None
    settings = read_json(folder, "1_Pooling/config.json")
    if settings is None:
        return "last"
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value]
    return _POOLINGS.get(modes[0]) if len(modes) == 1 else None


def _find_body(model: Any) -> Any:
    text_model = getattr(model, "language_model", model)
    return next((getattr(text_model, name) for name in _BODIES if hasattr(text_model, name)), None)


def _measure(library: MlxLibrary, body: Any) -> int:
    """The width of the hidden states, which are planned and not computed; 0 for something else."""
    try:
        hidden = body(library.mx.zeros((1, 2), library.mx.int32))
    except Exception:  # of a class that is called in another way
        logger.info("hidden states were not planned", exc_info=True)
        return 0
    is_hidden = isinstance(hidden, library.mx.array) and hidden.ndim == 3
    return int(hidden.shape[2]) if is_hidden and hidden.shape[:2] == (1, 2) else 0


def _ends_with_special(vocabulary: MlxVocabulary) -> bool:
    tokens = vocabulary.tokenize((TextPiece("a", True),), add_special=True)
    return bool(tokens) and tokens[-1] in vocabulary.control_tokens


def _group(texts: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
    """Texts of like lengths, as many as fill so many tokens when they are padded; at least one."""
    group: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        if group and (len(group) + 1) * len(texts[index]) > max_tokens:
            yield group
            group = []
        group.append(index)
    yield group
