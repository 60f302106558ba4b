"""Who may still wait where many do: the requests of one principal do not take all places.

While there are places, anybody may take them. When all are taken, a principal may wait with as many
requests as if the places had been divided equally between it and all who wait. So one that floods
delays others, as fair queueing allows, but has none of theirs refused. With p principals, at most
limit * (1 + 1/2 + ... + 1/p) requests wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def has_place(principal: str, count: int, waiting: Iterable[str], *, limit: int) -> bool:
    """Whether so many requests of a principal may wait. `waiting`: whose the waiting ones are."""
    principals = list(waiting)
    if len(principals) + count <= limit:
        return True
    counts = Counter(principals)
    own = counts.pop(principal, 0)
    return own + count <= limit // (len(counts) + 1)
