"""What is worth storing, and which snapshot gives way: pure decisions."""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Literal

from services.engine.core import CacheWrite
from services.engine.kv_entry import EntryHeader

NotWrittenReason = Literal["no space", "read-only", "missing folder", "error"]
_REASONS: dict[int | None, NotWrittenReason] = {
    errno.ENOSPC: "no space",
    errno.EDQUOT: "no space",
    errno.EFBIG: "no space",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
    errno.ENOENT: "missing folder",
}


class WritePolicy:
    """Decides what is stored. Remembers what was asked for, up to a number of parts."""

    def __init__(self, write: CacheWrite, *, max_remembered: int = 1 << 16) -> None:
        self._write = write
        self._max_remembered = max_remembered
        self._asked: OrderedDict[bytes, None] = OrderedDict()

    def wants(self, name_key: bytes, content: bytes) -> bool:
        """Whether to store this part of one more request, which is remembered."""
        if self._write != "second_use":
            return self._write == "always"
        asked = name_key + content  # what one tenant asks for says nothing about another
        was_asked = asked in self._asked
        self._asked[asked] = None
        self._asked.move_to_end(asked)
        if len(self._asked) > self._max_remembered:
            self._asked.popitem(last=False)
        return was_asked


def choose_slot(
    headers: Sequence[EntryHeader | None],
    last_uses: Sequence[float],
    tail_tag: bytes,
    *,
    kept: Collection[int] = (),
    now: float,
) -> int | None:
    """The slot of a node for a new snapshot; None: it is stored already, or all slots are kept.

    `headers`: of the node's slots, None where one is free. `last_uses`: seconds since 1970. Without
    a free slot, the snapshot that was not used for longest gives way, unless it is kept: that of a
    system prompt stays while chats begin with it. One from the future, before a clock was set back,
    counts as oldest.
    """
    if any(header is not None and header.tail_tag == tail_tag for header in headers):
        return None
    if None in headers:
        return headers.index(None)
    ages = [last_use if last_use <= now else -1 for last_use in last_uses]
    replaceable = [slot for slot in range(len(headers)) if slot not in kept]
    return min(replaceable, key=ages.__getitem__, default=None)


def name_write_error(error: OSError) -> NotWrittenReason:
    """The reason that an event gives for a failed write."""
    return _REASONS.get(error.errno, "error")
