"""Make msgspec structs safe to decode from several threads."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def resolved(kind: type[T]) -> type[T]:
    """Class decorator: make msgspec resolve now how a struct is decoded.

    By default msgspec does so at the first use. If two threads are the first at the same moment,
    the process crashes (msgspec 0.22: one thread sees the unfinished result of the other).
    """
    msgspec.json.Decoder(kind)
    return kind
