"""A message on the socket: its length, then its msgpack.

frame = uint32 little-endian length, then the msgpack of one Command or one Report
"""

from __future__ import annotations

import struct

import msgspec

from services.engine.messages.commands import Command
from services.engine.messages.reports import Report

MAX_FRAME_BYTES = 256 << 20
HEADER = struct.Struct("<I")

_encoder = msgspec.msgpack.Encoder()
command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
report_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode_frame(message: Command | Report) -> bytes:
    """Encode one message as a frame."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body
