"""A bounded cursor over the start of an untrusted file.

Every size in a header is a claim. It is compared with the rest of the file before memory is
allocated for it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from services.shared.errors import InvalidModelFile

# Gemma 4's header (262,144 tokens, and merges) has 16 MB; no real header comes near this limit.
MAX_HEADER_BYTES = 128 << 20
MAX_STRING_BYTES = 8 << 20
MAX_ARRAY_ITEMS = 1 << 22
_CHUNK = 1 << 20
_U64 = struct.Struct("<Q")


class HeaderIncomplete(Exception):
    """The file is being downloaded, and its header goes on behind the bytes that are there."""


@dataclass(frozen=True, slots=True)
class StringArray:
    """An array of strings in the encoding of the file; each item is decoded on access."""

    data: bytes = field(repr=False)
    starts: array[int] = field(repr=False)  # of each string, whose length is in the 8 bytes before

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        start = self.starts[index]
        (length,) = _U64.unpack_from(self.data, start - 8)
        return self.data[start : start + length].decode(errors="replace")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


class Cursor:
    """Reads one file from its start. Every read raises InvalidModelFile at the end of the file."""

    def __init__(
        self, file: BinaryIO, file_bytes: int, *, available_bytes: int | None = None
    ) -> None:
        """`available_bytes`: only these are on disk yet; reading further raises HeaderIncomplete."""
        self._file = file
        self._data = bytearray()
        self._available_bytes = file_bytes if available_bytes is None else available_bytes
        self.position = 0
        self.file_bytes = file_bytes

    def advance(self, count: int) -> int:
        """Load the next `count` bytes, step over them, and return their start."""
        start, end = self.position, self.position + count
        if end > self.file_bytes:
            raise InvalidModelFile(
                "the file is truncated: its header extends beyond the end of the file"
            )
        if end > MAX_HEADER_BYTES:
            raise InvalidModelFile("the header is larger than any real one")
        if end > self._available_bytes:
            raise HeaderIncomplete
        while len(self._data) < end:
            n_bytes = max(_CHUNK, end - len(self._data))
            block = self._file.read(min(n_bytes, self._available_bytes - len(self._data)))
            if not block:
                raise InvalidModelFile(
                    "the file is truncated: its header extends beyond the end of the file"
                )
            self._data += block
        self.position = end
        return start

    def scalar(self, letter: str) -> int | float | bool:
        """Read one number or boolean, by the letter of its struct format."""
        form = struct.Struct(f"<{letter}")
        (value,) = form.unpack_from(self._data, self.advance(form.size))
        return value  # type: ignore[no-any-return]  # struct returns Any

    def u32(self) -> int:
        """Read a count or a type number."""
        return int(self.scalar("I"))

    def u64(self) -> int:
        """Read a count, a length or an offset."""
        return int(self.scalar("Q"))

    def string(self, max_bytes: int = MAX_STRING_BYTES) -> str:
        """Read a string of at most `max_bytes`; its length precedes it."""
        length = self.u64()
        if length > max_bytes:
            raise InvalidModelFile("a string in the header is longer than any real one")
        start = self.advance(length)
        return self._data[start : start + length].decode(errors="replace")

    def numbers(self, letter: str, count: int) -> array[int] | array[float]:
        """Read `count` consecutive numbers."""
        size = struct.calcsize(f"<{letter}")
        self._check_items(count, size)
        start = self.advance(count * size)
        found: array[int] | array[float] = array("B" if letter == "?" else letter)
        found.frombytes(self._data[start : self.position])
        return found

    def strings(self, count: int) -> StringArray:
        """Read `count` consecutive strings; they are kept as bytes, not as str objects."""
        self._check_items(count, 8)
        first = self.position
        starts = array("Q", bytes(8 * count))
        unpack, data, position = _U64.unpack_from, self._data, self.position
        for index in range(count):
            if position + 8 > len(data):
                self.position = position
                position = self.advance(8)
            (length,) = unpack(data, position)
            start = position + 8
            position = start + length
            if position > len(data):
                self._check_length(length)
                self.position = start
                self.advance(length)
            starts[index] = start - first
        self.position = position
        return StringArray(bytes(data[first:position]), starts)

    def _check_length(self, length: int) -> None:
        if length > MAX_STRING_BYTES:
            raise InvalidModelFile("a string in the header is longer than any real one")

    def _check_items(self, count: int, item_bytes: int) -> None:
        if count > MAX_ARRAY_ITEMS or count * item_bytes > self.file_bytes - self.position:
            raise InvalidModelFile("an array in the header has more items than fit into the file")
