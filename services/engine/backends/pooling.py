"""The contract of a context that computes one vector for each text: for embeddings and ranking.

It is beside the context that generates, on the same weights, with a memory of its own. It is opened
with the model, or when it is used for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from services.engine.backends.base import Vocabulary
from services.engine.core import ModelInfo

Vectors = NDArray[np.float32]  # one row for each text
# How the vectors of a text's tokens become one; with `rank`, a head of the model makes scores of it.
Pooling = Literal["mean", "cls", "last", "rank"]


@dataclass(frozen=True, slots=True)
class PairFormat:
    """How a ranking model reads a query and a document.

    With a template, its `{query}` and `{document}` are replaced; otherwise the token ids stand
    before, between and after the two.
    """

    template: str | None = None
    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingFacts:
    """What the model says about its vectors. Known without a context."""

    pooling: Pooling
    dimensions: int  # numbers of one row
    max_tokens: int  # of one text
    batch_tokens: int  # of several texts computed at once, and of one part of a longer text
    max_texts: int  # computed at once
    # Whether a longer text is computed in parts; otherwise it is computed at once.
    takes_parts: bool
    # Whether the tokenizer ends each text with a control token, which a shortened text keeps.
    ends_with_special: bool = False
    pair_format: PairFormat = PairFormat()
    is_probability: bool = False  # a score is in 0 to 1, and not any number


class PooledContext(Protocol):
    """A context for vectors. Only on the thread that opened the backend."""

    @property
    def pool_bytes(self) -> Mapping[str, int]:
        """The memory that it takes, by pool."""

    def run(self, parts: Sequence[Sequence[int]]) -> Vectors:
        """Append a part to the n-th text of those since `clear`; the row of each text so far.

        Weights or texts that overflow give rows that are not finite. Raises BackendError when the
        computation failed, or for more than the facts allow.
        """

    def clear(self) -> None:
        """Forget all texts."""


class PooledModel(Protocol):
    """A loaded model that has, or can open, a pooled context."""

    @property
    def facts(self) -> PoolingFacts:
        """Any thread may read them."""

    @property
    def is_open(self) -> bool:
        """Whether the context takes memory already."""

    def open(self) -> PooledContext:
        """The context, which is created by the first call. Raises ModelLoadFailed."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded model that does not generate: it has a pooled context alone, which is open."""

    info: ModelInfo
    vocabulary: Vocabulary  # any thread may use it, until `close`
    pooled: PooledModel
    close: Callable[[], None]  # frees everything; safe to call twice
