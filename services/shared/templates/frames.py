"""Frames between a process that renders and its parent: a length of four bytes, then the bytes.

A request is JSON:
    {"id": 1, "open": {"language" and the arguments of ChatTemplate}, "probe": true}
    {"id": 1, "render": {"messages": […], …}}
An answer is a letter and its data, see Answer. The first frame of a process is empty: it is ready.
"""

from __future__ import annotations

import socket
import struct
import time
from enum import Enum

_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 20

MAX_REQUEST_BYTES = 16 << 20
MAX_PROMPT_BYTES = 8 << 20  # of UTF-8; more tokens than any context has
MAX_ANSWER_BYTES = MAX_PROMPT_BYTES + 1


class Answer(Enum):
    """The kinds of answers."""

    OPENED = b"O"  # JSON {"traits", "marked", "composed"}, or empty without a probe
    PROMPT = b"P"  # UTF-8
    INVALID = b"I"  # UTF-8, a message: the template cannot be compiled
    REFUSED = b"R"  # UTF-8, a message: the template does not accept this conversation
    FAILED = b"F"  # JSON: {"kind", "line"}
    TOO_LONG = b"L"  # the prompt is longer than MAX_PROMPT_BYTES
    OUT_OF_MEMORY = b"M"


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send one frame."""
    connection.sendall(_LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(
    connection: socket.socket, *, max_bytes: int, deadline: float | None = None
) -> bytes | None:
    """The next frame; None at the end of the stream.

    ValueError: it is longer than `max_bytes`. TimeoutError: `deadline` (time.monotonic) has passed.
    """
    head = _receive(connection, _LENGTH.size, deadline)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > max_bytes:
        raise ValueError("the frame is too long")
    return _receive(connection, length, deadline)


def _receive(connection: socket.socket, length: int, deadline: float | None) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        if deadline is not None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
        received = connection.recv(min(_CHUNK, length - len(data)))
        if not received:
            return None
        data += received
    return bytes(data)
