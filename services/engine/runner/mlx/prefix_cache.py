"""The caches of earlier prompts and answers, by realm, in the memory that running answers leave."""

from __future__ import annotations

from typing import Any, Literal

from services.engine.backends.mlx.library import MlxLibrary

_MAX_ENTRIES = 256

# What the tokens end with, in mlx-lm's words: an answer is dropped before a whole prompt, and that
# before the beginning of one, unless there are fewer of them.
Kind = Literal["assistant", "user", "system"]


class PrefixCache:
    """Over mlx-lm's LRUPromptCache. The thread of the batcher only.

    A dense cache is cut where a prompt leaves it. One that cannot be cut, as of a sliding window
    or a state, serves only prompts that begin with all of it.
    """

    def __init__(self, library: MlxLibrary) -> None:
        self._library = library
        self._entries: Any = library.prompt_cache_class(max_size=_MAX_ENTRIES)

    @property
    def size_bytes(self) -> int:
        """What the entries take."""
        return int(self._entries.nbytes)

    def find(self, realm: str, tokens: list[int]) -> tuple[Any | None, int]:
        """A copy of the best caches for these tokens, and how many of them it holds.

        The last token is never among them: it is computed, to sample the next one.
        """
        caches, rest = self._entries.fetch_nearest_cache(realm, tokens)
        length = len(tokens) - len(rest)
        if caches is not None and length == len(tokens):
            length -= 1
            if self._library.can_trim_prompt_cache(caches):
                self._library.trim_prompt_cache(caches, 1)
            else:
                caches, rest = self._entries.fetch_nearest_cache(realm, tokens[:-1])
                length -= len(rest)
        return (caches, length) if caches is not None and length > 0 else (None, 0)

    def put(self, realm: str, tokens: list[int], caches: list[Any], kind: Kind) -> None:
        """Keep the caches that hold these tokens."""
        if tokens:
            # Otherwise they keep the batch alive that they were cut from.
            self._library.mx.eval([cache.state for cache in caches])
            self._entries.insert_cache(realm, list(tokens), caches, cache_type=kind)

    def shrink(self, max_bytes: int) -> None:
        """Drop the oldest entries until the others take no more than this."""
        self._entries.trim_to(n_bytes=max_bytes)

    def clear(self) -> None:
        """Drop all entries."""
        self.shrink(0)
