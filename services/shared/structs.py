"""Structs that threads may decode."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def resolved(kind: type[T]) -> type[T]:
    """Class decorator: have msgspec work out now how a struct is decoded.

    Else it does so at the first use, and two threads that are first at once crash the process
    (msgspec 0.22: one finds what the other has not finished).
    """
    msgspec.json.Decoder(kind)
    return kind
