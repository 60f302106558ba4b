"""A file that is not exactly what was written is a miss with a counted reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.engine.core import CacheKey
from services.engine.kv_entry import FRAME_BYTES, HEADER_BYTES, TAG_BYTES
from services.engine.runner.kvcache.store import PromptStore
from tests.engine.runner.kvcache.stores import (
    IDENTITY,
    KEY,
    OTHER_KEY,
    entry_files,
    make_state,
    make_tokens,
    open_store,
    rejections,
    save,
    take_all,
)

MIB = 1 << 20
FRAME = FRAME_BYTES + TAG_BYTES
TOKENS = make_tokens(256)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PromptStore]:
    with open_store(disk=tmp_path / "disk") as store:
        yield store


def write_entry(store: PromptStore, folder: Path, size: int) -> tuple[Path, bytes]:
    save(store, store.open_chain([KEY], TOKENS), {(0, 256): make_state(size)})
    (path,) = entry_files(folder)
    store.take_events()
    return path, path.read_bytes()


def replace(path: Path, data: bytes) -> None:
    """Put other bytes under the name, as a new file: what is rejected once is not read again."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def read_back(store: PromptStore, key: CacheKey = KEY) -> list[bytes]:
    return take_all(store, store.open_chain([key], TOKENS))


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB])
def test_a_state_comes_back_as_it_was(store: PromptStore, tmp_path: Path, size: int) -> None:
    path, data = write_entry(store, tmp_path / "disk", size)

    assert read_back(store) == [make_state(size)]
    assert rejections(store) == []
    assert len(data) == HEADER_BYTES + size + TAG_BYTES * max(1, -(-size // MIB))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_every_changed_byte_of_the_header_is_rejected(store: PromptStore, tmp_path: Path) -> None:
    path, data = write_entry(store, tmp_path / "disk", 1000)
    reasons = []
    for place in range(HEADER_BYTES):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        replace(path, bytes(changed))
        assert read_back(store) == [], place
        reasons += rejections(store)

    assert len(reasons) == HEADER_BYTES
    assert set(reasons) == {"format", "version", "size", "mismatch", "authentication"}


def test_a_changed_byte_of_any_frame_is_rejected(store: PromptStore, tmp_path: Path) -> None:
    path, data = write_entry(store, tmp_path / "disk", 3 * MIB + 5)
    for frame in range(4):
        changed = bytearray(data)
        start = HEADER_BYTES + frame * FRAME
        changed[random.Random(frame).randrange(start, min(start + FRAME, len(data)))] ^= 0x10
        replace(path, bytes(changed))

        assert read_back(store) == []
        assert rejections(store) == ["authentication"]


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_truncated_file_is_rejected(store: PromptStore, tmp_path: Path, offset: int) -> None:
    path, data = write_entry(store, tmp_path / "disk", 3 * MIB)
    ends = [0, HEADER_BYTES, *range(HEADER_BYTES + FRAME, len(data), FRAME)]
    for end in ends:
        replace(path, data[: max(end + offset, 0)])

        assert read_back(store) == []
        assert rejections(store) == ["size"]


SHORTER = slice(64, 72)  # the payload bytes of the header


def drop_last_frame(data: bytes) -> bytes:
    shorter = bytearray(data[:-FRAME])
    shorter[SHORTER] = (2 * MIB).to_bytes(8, "little")
    return bytes(shorter)


def append_frame(data: bytes) -> bytes:
    longer = bytearray(data + data[-FRAME:])
    longer[SHORTER] = (4 * MIB).to_bytes(8, "little")
    return bytes(longer)


def swap_frames(data: bytes) -> bytes:
    frames = [data[start : start + FRAME] for start in range(HEADER_BYTES, len(data), FRAME)]
    return data[:HEADER_BYTES] + frames[1] + frames[0] + frames[2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + b"x", "size"),
        (drop_last_frame, "authentication"),
        (append_frame, "authentication"),
        (swap_frames, "authentication"),
    ],
    ids=["extended", "last frame dropped", "frame appended", "frames swapped"],
)
def test_frames_cannot_be_added_dropped_or_moved(
    store: PromptStore, tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    path, data = write_entry(store, tmp_path / "disk", 3 * MIB)
    replace(path, change(data))

    assert read_back(store) == []
    assert rejections(store) == [reason]


def test_a_rejected_file_is_read_once_and_replaced_by_the_next_save(
    store: PromptStore, tmp_path: Path
) -> None:
    path, data = write_entry(store, tmp_path / "disk", 100)
    replace(path, data[:-1] + bytes([data[-1] ^ 1]))
    chain = store.open_chain([KEY], TOKENS)

    assert [read_back(store), read_back(store)] == [[], []]
    assert rejections(store) == ["authentication"]
    assert store.wants(chain, 256) == [(0, 256)]
    save(store, chain, {(0, 256): b"again"})
    assert read_back(store) == [b"again"]


def test_two_files_with_swapped_names_are_rejected(store: PromptStore, tmp_path: Path) -> None:
    """Also those of two continuations of the same prefix, which differ in their own tokens only."""
    prefix, tails = make_tokens(256), [make_tokens(256, seed=seed) for seed in (1, 2)]
    chains = [store.open_chain([KEY], prefix + tail) for tail in tails]
    for chain in chains:
        save(store, chain, {(256, 512): make_state(50)})
    one, two = entry_files(tmp_path / "disk")
    one_data, two_data = one.read_bytes(), two.read_bytes()
    replace(one, two_data)
    replace(two, one_data)
    store.take_events()

    for chain in chains:
        stored = store.find(chain, start=256)
        assert stored is not None
        fetch = store.fetch(chain, stored, 256)
        fetch.wait(30)
        assert fetch.is_over
    assert rejections(store) == ["authentication"] * 2


@pytest.mark.parametrize(
    ("key", "identity", "reason"),
    [
        (OTHER_KEY, IDENTITY, "mismatch"),
        (CacheKey(b"an older epoch..", KEY.secret), IDENTITY, "mismatch"),
        (CacheKey(KEY.id, OTHER_KEY.secret), IDENTITY, "authentication"),
        (KEY, b"another model's " * 2, "authentication"),
        (KEY, b"an older build's" * 2, "authentication"),
    ],
    ids=["another tenant", "older epoch", "wrong secret", "another model", "older build"],
)
def test_a_foreign_file_under_the_right_name_is_rejected(
    store: PromptStore, tmp_path: Path, key: CacheKey, identity: bytes, reason: str
) -> None:
    path, _ = write_entry(store, tmp_path / "disk", 100)
    with open_store(disk=tmp_path / "foreign", identity=identity) as foreign:
        save(foreign, foreign.open_chain([key], TOKENS), {(0, 256): b"foreign"})
    (foreign_path,) = entry_files(tmp_path / "foreign")
    replace(path, foreign_path.read_bytes())

    assert read_back(store) == []
    assert rejections(store) == [reason]


def test_another_tenant_does_not_find_an_entry(store: PromptStore, tmp_path: Path) -> None:
    write_entry(store, tmp_path / "disk", 100)

    assert store.find(store.open_chain([OTHER_KEY], TOKENS)) is None
    assert store.find(store.open_chain([], TOKENS)) is None
    assert store.find(store.open_chain([OTHER_KEY, KEY], TOKENS)) is not None
