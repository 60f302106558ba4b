"""Names to manifests for the front: the store is asked in a thread, and not for every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.shared.store.manifest import Manifest

_FRESH_SECONDS = 2.0  # a model pulled anew is served anew within this
_MOST_REMEMBERED = 1024


class Catalogue:
    """Event loop only. `resolve` of the store may read files and raises ModelNotFound."""

    def __init__(
        self, resolve: Callable[[str], Manifest], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._known: dict[str, tuple[float, Manifest]] = {}

    def fresh(self, name: str) -> Manifest | None:
        """What the name meant a moment ago; None: ask `resolve`."""
        known = self._known.get(name)
        if known is None or self._clock() - known[0] > _FRESH_SECONDS:
            return None
        return known[1]

    async def resolve(self, name: str) -> Manifest:
        """The manifest. ModelNotFound, InvalidModelName."""
        if (fresh := self.fresh(name)) is not None:
            return fresh
        manifest = await asyncio.to_thread(self._resolve, name)
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[name] = (self._clock(), manifest)
        return manifest
