"""Bytes become a blob only when they have the expected digest."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.shared.errors import DigestMismatch, InvalidModelFile
from services.shared.store.blobs import Blobs
from services.shared.store.layout import Layout, parse_blob_name, parse_digest
from tests.shared.store.builders import sha256_digest


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(Layout(tmp_path))


def test_a_partial_becomes_a_blob_of_its_digest(blobs: Blobs) -> None:
    digest = sha256_digest(b"bytes")
    partial = blobs.partial_path(digest)
    partial.write_bytes(b"bytes")
    partial.with_name(f"{partial.name}.json").write_bytes(b"{}")

    blob = blobs.commit(partial, digest=digest)

    assert (blob.digest, blob.size_bytes, blobs.has(digest, 5)) == (digest, 5, True)
    assert [p.name for p in partial.parent.iterdir()] == [blobs.path(digest).name]


def test_bytes_with_an_unexpected_digest_are_removed(blobs: Blobs) -> None:
    digest = sha256_digest(b"bytes")
    partial = blobs.partial_path(digest)
    partial.write_bytes(b"bytez")

    with pytest.raises(DigestMismatch):
        blobs.commit(partial, digest=digest)

    assert list(partial.parent.iterdir()) == []


def test_a_digest_computed_by_the_writer_is_compared_too(blobs: Blobs) -> None:
    partial = blobs.new_partial()
    partial.write_bytes(b"bytes")

    with pytest.raises(DigestMismatch):
        blobs.commit(partial, digest=sha256_digest(b"other"), computed=sha256_digest(b"bytes"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 63,
        "../" + "a" * 64,
        "md5:" + "a" * 64,
    ],
)
def test_an_invalid_digest_is_refused(blobs: Blobs, text: str) -> None:
    with pytest.raises(InvalidModelFile):
        blobs.path(text)


def test_both_spellings_of_a_digest_are_equal() -> None:
    assert parse_digest("sha256-" + "A" * 64) == "sha256:" + "a" * 64
    assert parse_blob_name("sha256-" + "a" * 64 + ".partial.json") == "sha256:" + "a" * 64
    assert parse_blob_name("incoming-1.partial") is None


def test_a_file_is_linked_not_copied(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")

    blob = blobs.add_file(source)

    assert blob.linked
    assert blobs.path(blob.digest).stat().st_ino == source.stat().st_ino


def test_a_symbolic_link_is_followed_to_its_file(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("real")

    blob = blobs.add_file(tmp_path / "link")

    assert stat.S_ISREG(os.lstat(blobs.path(blob.digest)).st_mode)


def test_a_copy_is_independent_of_its_source(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")

    blob = blobs.add_file(source, link=False)
    source.write_bytes(b"changed")

    assert (blob.linked, blobs.path(blob.digest).read_bytes()) == (False, b"bytes")


def test_importing_the_same_file_twice_leaves_one_blob(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")

    blobs.add_file(source)
    blobs.add_file(source)

    assert len(list((tmp_path / "blobs").iterdir())) == 1


def test_only_a_regular_file_can_be_added(blobs: Blobs, tmp_path: Path) -> None:
    for source in (tmp_path, Path(os.devnull), tmp_path / "absent"):
        with pytest.raises(InvalidModelFile):
            blobs.add_file(source)
