"""A header with changed bytes is read or refused, and nothing else happens."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.puller.formats.describe import describe_model
from services.puller.formats.gguf.header import read_header
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import FileRole, StoredFile
from tests.conftest import TINY_GGUF

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
_NUMBERS = (0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


def is_accepted(path: Path) -> bool:
    """Whether the file is accepted; any error but InvalidModelFile fails the test."""
    file = StoredFile(
        role=FileRole.MODEL,
        path="m.gguf",
        digest="sha256:" + "a" * 64,
        size_bytes=path.stat().st_size,
    )
    try:
        read_header(path)
        describe_model([file], lambda _: path)
    except InvalidModelFile:
        return False
    return True


def mutate(original: bytes, header_bytes: int, chance: random.Random) -> bytes:
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(min(header_bytes, len(data)))
        kind = chance.randrange(5)
        if kind == 0:
            data[at] = chance.choice(_INTERESTING)
        elif kind == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[at : at + 8] = struct.pack("<Q", chance.choice(_NUMBERS))
        elif kind == 3:
            del data[at : at + chance.randrange(1, 64)]
        else:
            data[at:at] = chance.randbytes(chance.randrange(1, 64))
    if chance.random() < 0.1:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def fuzz(tmp_path: Path, rounds: int, seed: int) -> None:
    original = TINY_GGUF.read_bytes()
    header_bytes = read_header(TINY_GGUF).data_offset
    # Only the length of the weights matters: a sparse tail keeps the files small.
    head, size = original[:header_bytes], len(original)
    path = tmp_path / "m.gguf"
    chance = random.Random(seed)
    accepted = 0
    tracemalloc.start()
    try:
        for _ in range(rounds):
            data = mutate(head, header_bytes, chance)
            path.write_bytes(data)
            with path.open("r+b") as file:
                file.truncate(len(data) + size - header_bytes)
            accepted += is_accepted(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 0 < accepted < rounds
    assert peak < 64 << 20


def test_a_mutated_header_is_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, rounds=60, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
def test_a_header_mutated_many_times_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path, rounds=3000, seed=seed)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + data)

    assert not is_accepted(path)
