"""Reads a runner's reports from the byte stream of its pipe.

The format of the frames is in services/engine/messages/frames.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from services.engine.messages import reports
from services.engine.messages.frames import HEADER, MAX_FRAME_BYTES, report_decoder


class FrameReader(asyncio.Protocol):
    """Splits the byte stream into frames and decodes each one.

    One read may hold a part of a frame, or many frames. After invalid data, `on_invalid_data` is
    called once and everything that follows is dropped.
    """

    def __init__(
        self,
        on_report: Callable[[reports.Report], None],
        on_invalid_data: Callable[[Exception], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._on_report = on_report
        self._on_invalid_data = on_invalid_data
        self._on_closed = on_closed
        self._pieces: list[bytes] = []  # received, but not yet a whole frame
        self._received_bytes = 0  # the size of all pieces
        self._needed_bytes = HEADER.size  # to continue

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._received_bytes += len(data)
        self._pieces.append(data)
        if self._received_bytes < self._needed_bytes:
            return
        if len(self._pieces) > 1:
            data = b"".join(self._pieces)
        self._pieces.clear()
        try:
            rest = self._read_frames(data)
        except (msgspec.DecodeError, ValueError) as error:
            self._needed_bytes = 1 << 62  # the start of the next frame cannot be found any more
            self._on_invalid_data(error)
            return
        if rest:
            self._pieces.append(rest)
        self._received_bytes = len(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._on_closed()

    def _read_frames(self, data: bytes) -> bytes:
        """Report every whole frame; returns the beginning of the next one."""
        header = HEADER.size
        view = memoryview(data)
        start = 0
        while True:
            self._needed_bytes = header
            if len(data) - start < header:
                return data[start:]
            (size,) = HEADER.unpack_from(data, start)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            end = start + header + size
            if len(data) < end:
                self._needed_bytes = header + size
                return data[start:]
            self._on_report(report_decoder.decode(view[start + header : end]))
            start = end
