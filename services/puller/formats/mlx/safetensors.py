"""Read the header of a safetensors file and check it.

The format requires that every byte of data belongs to exactly one tensor (huggingface/safetensors,
README, "Format").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.shared.errors import InvalidModelFile
from services.shared.structs import resolved

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_TENSORS = 1 << 18

# Bits per element.
_DTYPES = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
_DTYPES |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_DTYPES |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_DTYPES |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}


@resolved
class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the end of the header
    end: int

    @property
    def elements(self) -> int:
        """The number of elements; a word of packed weights counts as one."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def read_safetensors(path: Path) -> tuple[SafetensorsTensor, ...]:
    """Return the tensors in file order. Raises InvalidModelFile, which describes the error."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise InvalidModelFile("the file is truncated or not a safetensors file")
        raw = file.read(header_bytes)
    try:
        entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        if len(entries) > MAX_TENSORS:
            raise InvalidModelFile("the header claims more tensors than any real model has")
        tensors = [
            _parse_tensor(name, msgspec.json.decode(e, type=_Entry)) for name, e in entries.items()
        ]
    except msgspec.MsgspecError as error:
        raise InvalidModelFile("the header of the safetensors file is damaged") from error
    except RecursionError as error:
        raise InvalidModelFile("the header of the safetensors file is damaged") from error
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_layout(tensors, size - 8 - header_bytes)
    return tuple(tensors)


def _parse_tensor(name: str, entry: _Entry) -> SafetensorsTensor:
    bits = _DTYPES.get(entry.dtype)
    begin, end = entry.data_offsets
    tensor = SafetensorsTensor(name, entry.dtype, tuple(entry.shape), begin, end)
    if bits is None or any(length < 0 for length in entry.shape) or len(entry.shape) > 8:
        raise InvalidModelFile(f"tensor {name[:80]!r} has an unknown type or shape")
    if (end - begin) * 8 != tensor.elements * bits:
        raise InvalidModelFile(f"tensor {name[:80]!r} is not as large as its shape")
    return tensor


def _check_layout(tensors: list[SafetensorsTensor], data_bytes: int) -> None:
    position = 0
    for tensor in tensors:
        if tensor.begin < position:
            raise InvalidModelFile(f"tensor {tensor.name[:80]!r} overlaps the one before it")
        if tensor.begin > position:
            raise InvalidModelFile("the safetensors file has bytes that belong to no tensor")
        position = tensor.end
    if position > data_bytes:
        raise InvalidModelFile("the safetensors file is truncated")
    if position < data_bytes:
        raise InvalidModelFile("the safetensors file has bytes that belong to no tensor")
