"""Resolves model names to manifests, with a short-lived cache in front of the model store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.shared.store.manifest import Manifest

_FRESH_SECONDS = 2.0  # a model that was pulled again is served within this time
_MAX_ENTRIES = 1024


class ManifestCache:
    """Manifests by name. Event loop only.

    `resolve` is the store's: it may read files, so it runs in a thread. It raises ModelNotFound or
    InvalidModelName.
    """

    def __init__(
        self, resolve: Callable[[str], Manifest], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._entries: dict[str, tuple[float, Manifest]] = {}

    def get_fresh(self, name: str) -> Manifest | None:
        """The manifest when it was resolved a moment ago; None: `resolve` has to read it."""
        entry = self._entries.get(name)
        if entry is None or self._clock() - entry[0] > _FRESH_SECONDS:
            return None
        return entry[1]

    async def resolve(self, name: str) -> Manifest:
        """The manifest of a name. ModelNotFound, InvalidModelName."""
        if (fresh := self.get_fresh(name)) is not None:
            return fresh
        manifest = await asyncio.to_thread(self._resolve, name)
        if len(self._entries) >= _MAX_ENTRIES:
            self._entries.clear()
        self._entries[name] = (self._clock(), manifest)
        return manifest
