"""The engine's answers as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_HIDDEN = frozenset({"pid"})  # internal to the machine


def message_to_dict(message: Message) -> dict[str, Any]:
    """A proto message as JSON: its own field names, null for absent fields, short enum names."""
    fields: Iterable[Any] = message.DESCRIPTOR.fields  # of the C implementation's own type
    return {f.name: _read_field(message, f) for f in fields if f.name not in _HIDDEN}


def _read_field(message: Message, field: FieldDescriptor) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_value_to_json(field, item) for item in value]
    return _value_to_json(field, value)


def _value_to_json(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return message_to_dict(value)
    if field.enum_type is not None:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        name: str = field.enum_type.values_by_number[value].name
        return name.removeprefix(prefix).lower()
    return value
