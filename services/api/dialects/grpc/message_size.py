"""How much memory a message of the public gRPC takes once it is decoded, estimated before that.

An empty message in a repeated field takes two bytes on the wire and a hundred in memory. Only such
fields can grow so: a string takes its length, and a field that is there twice counts once.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor

from protos import spindll_pb2

_SMALL_BYTES = 1 << 20  # cannot become large enough to matter
_ENTRY_BYTES = 128  # measured: a Message, with its place in the list
_MAX_TEXT = 8  # bytes of a text that takes less than the rest of its entry
_LENGTH_DELIMITED = 2  # the wire type


def estimate_decoded_bytes(raw: bytes) -> int:
    """At most about what a message takes together with what it is decoded into."""
    entries = sum(raw.count(mark) for mark in _MARKS) if len(raw) > _SMALL_BYTES else 0
    return 2 * len(raw) + _ENTRY_BYTES * entries


def _list_marks() -> frozenset[bytes]:
    """What each entry of a repeated field begins with; of a text, if it is a short one.

    A mark that occurs in people's texts counts as well, so none is printable.
    """
    marks = set()
    for field in _list_repeated():
        tag = _encode(field.number << 3 | _LENGTH_DELIMITED)
        if field.message_type is not None:
            marks.add(tag)
        else:
            marks |= {tag + bytes([length]) for length in range(_MAX_TEXT + 1)}
    return frozenset(marks)


def _list_repeated() -> Iterator[FieldDescriptor]:
    """The repeated fields of all requests, and of what they contain."""
    (service,) = spindll_pb2.DESCRIPTOR.services_by_name.values()
    messages = [method.input_type for method in service.methods]
    for message in messages:  # grows
        for field in message.fields:
            if field.message_type is not None and field.message_type not in messages:
                messages.append(field.message_type)
            if field.is_repeated:
                yield field


def _encode(number: int) -> bytes:
    """A number as a varint: https://protobuf.dev/programming-guides/encoding/."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


_MARKS = _list_marks()
