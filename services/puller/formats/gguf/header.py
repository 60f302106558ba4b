"""Read the header of a GGUF file, its metadata and the layout of its tensors, and check it.

The checks refuse what gguf.cpp would refuse or crash on, with a clear message: a wrong magic,
version or byte order, duplicate keys, nested arrays, unknown types, rows that do not fill whole
blocks, and tensor offsets that are out of order, overlap or leave the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from services.puller.formats.gguf.reading import Cursor, StringArray
from services.puller.formats.gguf.types import SCALARS, TENSOR_TYPES, ValueType
from services.shared.errors import InvalidModelFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
_MAX_KEY_BYTES = 65535  # docs/gguf.md
_MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME - 1
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_ELEMENTS = 1 << 62

Value: TypeAlias = "int | float | bool | str | array[int] | array[float] | StringArray"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor; `offset` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]  # in ggml's order: the innermost dimension first
    type_name: str
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """The number of elements."""
        return _product(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[GgufTensor, ...]
    data_offset: int  # bytes from the start of the file
    file_bytes: int

    def text(self, key: str) -> str | None:
        """A string value, or None if the key is absent or has another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """An integer value (of any width), or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, key: str) -> bool | None:
        """A boolean value, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, bool) else None

    def strings(self, key: str) -> StringArray | None:
        """An array of strings, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, StringArray) else None

    def numbers(self, key: str) -> array[int] | array[float] | None:
        """An array of numbers, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, array) else None

    @property
    def architecture(self) -> str:
        """`general.architecture`. Raises InvalidModelFile when it is missing."""
        name = self.text("general.architecture")
        if not name:
            raise InvalidModelFile("the file does not name its architecture")
        return name


def read_header(path: Path, *, available_bytes: int | None = None) -> GgufHeader:
    """Read the header of a file. Raises InvalidModelFile, which describes the error.

    `available_bytes` is for a file of which only the first bytes are there; HeaderIncomplete when
    they are too few.
    """
    with path.open("rb") as file:
        file_bytes = path.stat().st_size
        cursor = Cursor(file, file_bytes, available_bytes=available_bytes)
        version = _read_version(cursor)
        tensor_count = _read_count(cursor, MAX_TENSORS, "tensors")
        key_count = _read_count(cursor, MAX_KEYS, "metadata entries")
        metadata = _read_metadata(cursor, key_count)
        alignment = _read_alignment(metadata)
        tensors = tuple(_read_tensor(cursor) for _ in range(tensor_count))
    data_offset = _pad(cursor.position, alignment)
    _check_layout(tensors, alignment, file_bytes - data_offset)
    return GgufHeader(version, metadata, tensors, data_offset, file_bytes)


def _read_version(cursor: Cursor) -> int:
    if cursor.file_bytes < 24:
        raise InvalidModelFile("the file is too short to be a GGUF model")
    if cursor.u32().to_bytes(4, "little") != MAGIC:
        raise InvalidModelFile("the file is not a GGUF model: it does not begin with GGUF")
    version = cursor.u32()
    if version & 0xFFFF == 0:
        raise InvalidModelFile("the file is a big-endian GGUF model; use the little-endian one")
    if version not in VERSIONS:
        raise InvalidModelFile(f"GGUF version {version} is not supported; versions 2 and 3 are")
    return version


def _read_count(cursor: Cursor, limit: int, what: str) -> int:
    count = cursor.u64()
    if count > limit:
        raise InvalidModelFile(f"the header claims {count} {what}, more than any real model has")
    return count


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.string(_MAX_KEY_BYTES)
        if not key or key in metadata:
            raise InvalidModelFile("a metadata key is empty or appears twice")
        metadata[key] = _read_value(cursor, _read_value_type(cursor))
    return metadata


def _read_value_type(cursor: Cursor) -> ValueType:
    number = cursor.u32()
    try:
        return ValueType(number)
    except ValueError as error:
        raise InvalidModelFile(f"the metadata has a value of the unknown type {number}") from error


def _read_value(cursor: Cursor, kind: ValueType) -> Value:
    if kind is ValueType.STRING:
        return cursor.string()
    if kind is not ValueType.ARRAY:
        return cursor.scalar(SCALARS[kind])
    item = _read_value_type(cursor)
    count = cursor.u64()
    if item is ValueType.ARRAY:
        raise InvalidModelFile("arrays of arrays are not supported")
    if item is ValueType.STRING:
        return cursor.strings(count)
    return cursor.numbers(SCALARS[item], count)


def _read_alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 0 < value <= 1 << 20 or value & (value - 1):
        raise InvalidModelFile("the alignment of the tensors is not a power of two")
    return value


def _read_tensor(cursor: Cursor) -> GgufTensor:
    name = cursor.string(_MAX_TENSOR_NAME_BYTES)
    dimensions = cursor.u32()
    if dimensions > _MAX_DIMENSIONS:
        raise InvalidModelFile(f"tensor {name!r} has {dimensions} dimensions, more than 4")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    number = cursor.u32()
    if number not in TENSOR_TYPES:
        raise InvalidModelFile(f"tensor {name!r} has the unknown or removed type {number}")
    type_name, block_elements, block_bytes = TENSOR_TYPES[number]
    elements = _product(shape)
    if elements > _MAX_ELEMENTS or 0 in shape:
        raise InvalidModelFile(f"tensor {name!r} has an impossible shape")
    if (shape[0] if shape else 1) % block_elements:
        raise InvalidModelFile(f"tensor {name!r}: rows do not fill whole blocks of {type_name}")
    size_bytes = elements // block_elements * block_bytes
    return GgufTensor(name, shape, type_name, cursor.u64(), size_bytes)


def _check_layout(tensors: tuple[GgufTensor, ...], alignment: int, data_bytes: int) -> None:
    """Check that each tensor starts where the padded previous one ends, as llama.cpp requires."""
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise InvalidModelFile("two tensors have the same name")
    expected = 0
    for tensor in tensors:
        end = tensor.offset + tensor.size_bytes
        if end > data_bytes:
            raise InvalidModelFile(
                f"the file is truncated or damaged: tensor {tensor.name!r} ends at byte {end}"
                f" of the data section, which has {max(0, data_bytes)} bytes"
            )
        if tensor.offset < expected:
            raise InvalidModelFile(f"tensor {tensor.name!r} overlaps the one before it")
        if tensor.offset != expected:
            raise InvalidModelFile(f"tensor {tensor.name!r} is not where its data must begin")
        expected = _pad(end, alignment)


def _pad(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _product(shape: tuple[int, ...]) -> int:
    elements = 1
    for length in shape:
        elements *= length
    return elements
