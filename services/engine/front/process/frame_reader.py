"""The byte stream from a runner, cut into reports (the frames of runner/wire.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from services.engine import messages


class Pipe(asyncio.Protocol):
    """Cuts the byte stream into frames. A frame may come in pieces, and many in one piece."""

    def __init__(
        self,
        on_report: Callable[[messages.Report], None],
        on_garbage: Callable[[Exception], None],
        on_end: Callable[[], None],
    ) -> None:
        self._on_report = on_report
        self._on_garbage = on_garbage
        self._on_end = on_end
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = messages.HEADER.size

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._have += len(data)
        self._pieces.append(data)
        if self._have < self._need:
            return
        if len(self._pieces) > 1:
            data = b"".join(self._pieces)
        self._pieces.clear()
        try:
            rest = self._cut(data)
        except (msgspec.DecodeError, ValueError) as error:
            self._need = 1 << 62  # nothing after garbage means anything
            self._on_garbage(error)
            return
        if rest:
            self._pieces.append(rest)
        self._have = len(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._on_end()

    def _cut(self, data: bytes) -> bytes:
        """Hand over every whole frame; what is left belongs to the next."""
        header = messages.HEADER.size
        view = memoryview(data)
        start = 0
        while True:
            self._need = header
            if len(data) - start < header:
                return data[start:]
            (size,) = messages.HEADER.unpack_from(data, start)
            if size > messages.MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            end = start + header + size
            if len(data) < end:
                self._need = header + size
                return data[start:]
            self._on_report(messages.report_decoder.decode(view[start + header : end]))
            start = end
