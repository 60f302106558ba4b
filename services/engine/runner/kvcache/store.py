"""The store of computed prompts: what a batcher finds, fetches and saves of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.engine.core import CacheConfig, CacheEvent, CacheKey, CacheTier


class Chain:
    """The tokens of one sequence and the hashes of their blocks. One thread at a time."""

    length: int  # tokens

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens, as those of an answer."""

    def copy(self) -> Chain:
        """A chain that can be extended by itself, as for the second answer to a prompt."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored prefix of a chain."""

    length: int  # tokens
    tier: CacheTier  # disk, if any part of it has to come from there


@dataclass(frozen=True, slots=True, eq=False)
class StoredState:
    """What was saved of the tokens [start, end)."""

    start: int
    end: int
    state: bytes
    tier: CacheTier
    seconds: float  # that the computation of the tokens took


class Fetch:
    """States on their way from the store, in the order of their tokens. Engine thread only."""

    @property
    def is_over(self) -> bool:
        """Whether `take` will return nothing more."""
        raise NotImplementedError

    @property
    def is_failed(self) -> bool:
        """Whether a state is missing: those before it can still be taken."""
        raise NotImplementedError

    def take(self) -> StoredState | None:
        """The next state; None while it is not ready, and when the fetch is over."""
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        """Wait until `take` returns a state, or the fetch is over; at most so long."""

    def close(self) -> None:
        """Read no more; forget what was read. Safe to call twice."""


class PromptStore:
    """Finds, fetches and saves states of computed prompts.

    Nothing here raises an error for what is wrong with files, folders or keys: that is a miss, and
    an event. Methods are cheap; reading, opening, sealing and writing happens on threads of its
    own. They may be called on any thread, but a chain and a fetch by one at a time.
    """

    def __init__(self, config: CacheConfig, identity: bytes, *, saves_whole: bool) -> None:
        """`identity`: see identity.py. `saves_whole`: sequences, not blocks (`Backend.save`)."""

    def open_chain(self, keys: Sequence[CacheKey], tokens: Sequence[int]) -> Chain:
        """Hash a prompt. Keys: newest first; without any, nothing is found and nothing wanted."""
        raise NotImplementedError

    def find(self, chain: Chain, *, start: int = 0, end: int | None = None) -> Stored | None:
        """The longest stored prefix of the chain's first `end` tokens; None: not beyond `start`.

        The blocks before `start`, which the caller has, need not be stored. A snapshot cannot be
        cut, so `end` must leave the token to compute; blocks end at multiples of 256 up to `end`.
        """
        raise NotImplementedError

    def fetch(self, chain: Chain, stored: Stored, start: int) -> Fetch:
        """Begin to read what was found, from token `start` on: a multiple of 256, 0 for snapshots."""
        raise NotImplementedError

    def wants(self, chain: Chain, length: int, *, start: int = 0) -> list[tuple[int, int]]:
        """The parts [start, end) of the first `length` tokens that `save` should get, in order.

        Those that end at or before `start` are left out, as are stored ones, those that wait to be
        written, and those that the policy excludes. For snapshots it is [(0, length)] or nothing.
        """
        raise NotImplementedError

    def has_room(self) -> bool:
        """Whether states may be saved now: those that wait are not too many bytes."""
        raise NotImplementedError

    def save(self, chain: Chain, start: int, end: int, state: bytes, seconds: float) -> None:
        """Store the state of a part that is wanted. `seconds`: that computing its tokens took."""

    def take_events(self) -> list[CacheEvent]:
        """What has happened since the last call."""
        raise NotImplementedError

    def close(self, seconds: float) -> None:
        """Write what waits, at most so long, then end the threads. Safe to call twice."""
