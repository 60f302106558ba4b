"""Seal the state of an entry in frames, and open it again: ChaCha20-Poly1305 (RFC 8439).

Each file has a key of its own, so the nonce of a frame can be its number, and whether it is the
last one. All frames authenticate the header and what the entry is bound to. So a frame cannot be
changed, moved, left out, appended or taken from another file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from services.engine.kv_entry import FRAME_BYTES, TAG_BYTES, BadEntry, EntryHeader
from services.engine.runner.kvcache.keys import DerivedKey


class _Frame(NamedTuple):
    """The place of a frame in the state, in bytes."""

    start: int
    end: int
    is_last: bool

    @property
    def sealed_bytes(self) -> int:
        return self.end - self.start + TAG_BYTES

    @property
    def nonce(self) -> bytes:
        number = self.start // FRAME_BYTES
        return number.to_bytes(11, "little") + bytes([self.is_last])


class FrameSealer:
    """Seals and opens with buffers that are used again, which is twice as fast. One thread."""

    def __init__(self) -> None:
        self._sealed = memoryview(bytearray(FRAME_BYTES + TAG_BYTES))
        self._plain = memoryview(bytearray(FRAME_BYTES))

    def seal(
        self, header: EntryHeader, key: DerivedKey, binding: bytes, state: bytes
    ) -> Iterator[memoryview | bytes]:
        """The parts of the file, in order. A part is valid until the next one."""
        packed = header.pack()
        yield packed
        cipher = ChaCha20Poly1305(key.derive_file_key(header.salt))
        plain = memoryview(state)
        for frame in _split(len(plain)):
            sealed = self._sealed[: frame.sealed_bytes]
            cipher.encrypt_into(
                frame.nonce, plain[frame.start : frame.end], packed + binding, sealed
            )
            yield sealed

    def open(
        self, file: io.FileIO, header: EntryHeader, key: DerivedKey, binding: bytes
    ) -> bytes | memoryview:
        """Read and open what follows the header. Raises BadEntry, and OSError.

        Memory for the whole state is taken when its first frame was opened, and so its header, with
        the size, is authentic.
        """
        associated = header.pack() + binding
        cipher = ChaCha20Poly1305(key.derive_file_key(header.salt))
        frames = _split(header.payload_bytes)
        first = next(frames)
        plain = self._plain[: first.end]
        self._open_frame(file, cipher, associated, first, plain)
        if first.is_last:
            return bytes(plain)
        # numpy asks the kernel for huge pages: otherwise page faults take as long as opening.
        state = np.empty(header.payload_bytes, np.uint8).data
        state[: first.end] = plain
        for frame in frames:
            target = state[frame.start : frame.end]
            self._open_frame(file, cipher, associated, frame, target)
        return state

    def _open_frame(
        self,
        file: io.FileIO,
        cipher: ChaCha20Poly1305,
        associated: bytes,
        frame: _Frame,
        target: memoryview,
    ) -> None:
        sealed = self._sealed[: frame.sealed_bytes]
        if file.readinto(sealed) != len(sealed):
            raise BadEntry("size")
        try:
            cipher.decrypt_into(frame.nonce, sealed, associated, target)
        except InvalidTag:
            raise BadEntry("authentication") from None


def _split(size: int) -> Iterator[_Frame]:
    """The frames of a state. An empty one has one frame."""
    for start in range(0, max(size, 1), FRAME_BYTES):
        end = min(start + FRAME_BYTES, size)
        yield _Frame(start, end, end == size)
