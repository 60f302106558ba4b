"""Decode msgspec structs safely: from several threads, and from the JSON of strangers."""

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


def decode_json(raw: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Decode the JSON of a stranger. Raises msgspec.DecodeError, for endless nesting too."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("the JSON is nested too deeply") from error
