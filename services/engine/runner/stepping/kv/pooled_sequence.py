"""One sequence of a context as the pool accounts for it, and a prefix of it that matches."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engine.runner.stepping.kv.cells import Run
from services.engine.runner.stepping.kv.retention import ReuseClass


@dataclass(slots=True, eq=False)
class PooledSequence:
    """One sequence of the context. `tokens[:length]` are computed; `tokens` may be longer."""

    id: int
    tokens: list[int]
    leaf: Run
    length: int = 0
    first: int = 0  # the first position that a sliding-window memory still holds
    is_shareable: bool = True  # other requests of its realm may begin with it
    is_prefix: bool = False  # others begin with it, but none continues it
    realm: str = ""
    reuse_class: ReuseClass = ("", False)
    idle_since_row: int = 0  # rows that had been computed when it became idle
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)  # by length


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The state of a recurrent memory after the first `length` tokens of its holders."""

    length: int
    state: bytes
    holders: list[PooledSequence]
    is_used: bool = False  # a request began with it since its place in the order was considered


@dataclass(frozen=True, slots=True)
class Match:
    """A computed prefix: the first `length` tokens of `source`."""

    source: PooledSequence
    length: int
    # Where the present state of the source is not that of `length`.
    checkpoint: Checkpoint | None = None
