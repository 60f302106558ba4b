"""Untrusted GGUF headers: read as llama.cpp reads them, or refused with a message."""

from __future__ import annotations

import ctypes
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from services.puller.formats.gguf.header import read_header
from services.puller.formats.gguf.reading import HeaderIncomplete
from services.puller.formats.gguf.types import FILE_TYPES, TENSOR_TYPES
from services.shared.errors import InvalidModelFile
from tests.conftest import SHARED, TINY_GGUF
from tests.puller.formats.gguf.writer import TensorSpec, text, write_gguf

VOCABULARIES = SHARED / "data" / "vocabs"


def test_the_tiny_model_reads_as_the_reference_library_reads_it() -> None:
    gguf = pytest.importorskip("gguf")
    reference = gguf.GGUFReader(TINY_GGUF)

    header = read_header(TINY_GGUF)

    own = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    assert set(header.metadata) == set(reference.fields) - own
    for key, value in header.metadata.items():
        expected = reference.fields[key].contents()
        assert (list(value) if isinstance(expected, list) else value) == expected  # type: ignore[arg-type]
    assert [
        (t.name, t.shape, t.offset + header.data_offset, t.size_bytes) for t in header.tensors
    ] == [
        (t.name, tuple(t.shape.tolist()), int(t.data_offset), int(t.n_bytes))
        for t in reference.tensors
    ]


def test_tensor_types_are_those_of_llama_cpp() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    libraries = sorted((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base*"))
    ggml = ctypes.CDLL(str(libraries[0]))
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t

    theirs = {}
    for number in range(max(TENSOR_TYPES) + 1):
        if ggml.ggml_blck_size(number):
            name = ggml.ggml_type_name(number).decode().upper()
            theirs[number] = (name, ggml.ggml_blck_size(number), ggml.ggml_type_size(number))

    assert theirs == TENSOR_TYPES


def test_file_types_are_those_of_llama_cpp() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    theirs = {
        value: name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
        for name, value in vars(llama_cpp.llama_cpp).items()
        if name.startswith("LLAMA_FTYPE_") and value < 1024
    }

    assert theirs.items() <= FILE_TYPES.items()


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_both_versions_in_use_are_read(tmp_path: Path) -> None:
    assert [read(tmp_path, write_gguf(version=v)).version for v in (2, 3)] == [2, 3]


def test_the_alignment_moves_the_data(tmp_path: Path) -> None:
    header = read(tmp_path, write_gguf({"general.alignment": 64}, alignment=64))

    assert header.data_offset % 64 == 0
    assert [t.offset for t in header.tensors] == [0, 64]


HUGE = 2**60
HOSTILE = {
    "empty": (b"", "too short"),
    "another format": (b"PK\x03\x04" + b"\0" * 100, "does not begin with GGUF"),
    "big-endian": (write_gguf(version=0x03000000), "big-endian"),
    "version 1": (write_gguf(version=1), "version 1"),
    "version 9": (write_gguf(version=9), "version 9"),
    "many tensors": (write_gguf(tensor_count=HUGE), "more than any real model"),
    "many keys": (write_gguf(key_count=HUGE), "more than any real model"),
    "one key too many": (
        write_gguf(key_count=14),
        "empty or appears twice|unknown type|longer than|truncated",
    ),
    "long key": (
        write_gguf({}, tensors=(), key_count=0)[:16] + struct.pack("<QQ", 1, HUGE),
        "longer than any",
    ),
    "long text": (write_gguf({"x": struct.pack("<IQ", 8, HUGE)}), "longer than any real one"),
    "text beyond the end": (write_gguf({"x": struct.pack("<IQ", 8, 10**6)}), "truncated"),
    "long array": (write_gguf({"x": struct.pack("<IIQ", 9, 4, HUGE)}), "more items"),
    "long array of texts": (write_gguf({"x": struct.pack("<IIQ", 9, 8, HUGE)}), "more items"),
    "array with one long text": (
        write_gguf({"x": struct.pack("<IIQQ", 9, 8, 1, HUGE)}),
        "longer than any real one",
    ),
    "array of arrays": (write_gguf({"x": struct.pack("<IIQ", 9, 9, 1)}), "arrays of arrays"),
    "unknown type": (write_gguf({"x": struct.pack("<IQ", 77, 1)}), "unknown type 77"),
    "array of an unknown type": (write_gguf({"x": struct.pack("<IIQ", 9, 13, 1)}), "unknown type"),
    "a key twice": (
        write_gguf(
            {"x": struct.pack("<II", 4, 1) + text("x") + struct.pack("<II", 4, 1)}, key_count=15
        ),
        "appears twice",
    ),
    "alignment of zero": (write_gguf({"general.alignment": 0}), "power of two"),
    "alignment of three": (write_gguf({"general.alignment": 3}), "power of two"),
    "alignment as text": (write_gguf({"general.alignment": "32"}), "power of two"),
    "five dimensions": (write_gguf(tensors=[TensorSpec("t", (1,) * 5)]), "5 dimensions"),
    "no elements": (write_gguf(tensors=[TensorSpec("t", (0, 4))]), "impossible shape"),
    "overflowing shape": (
        write_gguf(tensors=[TensorSpec("t", (2**40, 2**40), size_bytes=0)]),
        "impossible",
    ),
    "removed type": (write_gguf(tensors=[TensorSpec("t", (32,), type=4)]), "removed type 4"),
    "half a block": (write_gguf(tensors=[TensorSpec("t", (33,), type=2)]), "whole blocks"),
    "a long tensor name": (write_gguf(tensors=[TensorSpec("t" * 64, (4,))]), "longer than any"),
    "a tensor twice": (write_gguf(tensors=[TensorSpec("t", (8,))] * 2), "same name"),
    "overlapping tensors": (
        write_gguf(tensors=[TensorSpec("a", (16,)), TensorSpec("b", (16,), offset=32)]),
        "overlaps",
    ),
    "a gap": (
        write_gguf(
            tensors=[TensorSpec("a", (8,)), TensorSpec("b", (8,), offset=64)], data=b"\0" * 99
        ),
        "not where its data must begin",
    ),
    "a tensor beyond the end": (write_gguf(data=b"\0" * 79), "truncated"),
    "no data": (write_gguf(data=b""), "truncated"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_with_a_message(name: str, tmp_path: Path) -> None:
    data, words = HOSTILE[name]

    with pytest.raises(InvalidModelFile, match=words):
        read(tmp_path, data)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = write_gguf()
    path = tmp_path / "m.gguf"
    for length in range(len(data) - 16):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidModelFile):
            read_header(path)


@pytest.mark.parametrize(
    "value",
    [struct.pack("<IIQ", 9, 8, 1 << 22), struct.pack("<IIQ", 9, 10, 1 << 22), struct.pack("<IQ", 8, 1 << 22)],
    ids=["texts", "numbers", "a text"],
)  # fmt: skip
def test_a_claimed_size_allocates_no_memory_before_the_check(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(write_gguf({"x": value}, tensors=()))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModelFile):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20


def test_a_header_with_many_strings_uses_a_few_times_its_size(tmp_path: Path) -> None:
    count = 1 << 17
    path = tmp_path / "m.gguf"
    path.write_bytes(
        write_gguf({"x": struct.pack("<IIQ", 9, 8, count) + b"\0" * 8 * count}, tensors=())
    )
    tracemalloc.start()
    try:
        header = read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    texts = header.strings("x")
    assert texts is not None
    assert (len(texts), texts[count - 1]) == (count, "")
    assert peak < 6 * path.stat().st_size + (4 << 20)


@pytest.mark.skipif(not VOCABULARIES.is_dir(), reason="the vocabularies are not here")
@pytest.mark.parametrize(
    ("name", "tokens"), [("llama-bpe", 128256), ("qwen2", 151936), ("bert-bge", 30522)]
)
def test_real_vocabularies_are_read_completely(name: str, tokens: int) -> None:
    header = read_header(VOCABULARIES / f"ggml-vocab-{name}.gguf")

    texts = header.strings("tokenizer.ggml.tokens")
    assert texts is not None
    assert (len(texts), texts[tokens - 1] != "") == (tokens, True)


def test_a_header_is_read_as_soon_as_its_bytes_are_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    whole = write_gguf()
    path.write_bytes(whole)
    header = read_header(path)

    path.write_bytes(whole[: header.data_offset] + bytes(len(whole) - header.data_offset))
    assert read_header(path, available_bytes=header.data_offset) == header
    for available_bytes in range(24, 400, 7):
        path.write_bytes(whole[:available_bytes] + bytes(len(whole) - available_bytes))
        with pytest.raises(HeaderIncomplete):
            read_header(path, available_bytes=available_bytes)
