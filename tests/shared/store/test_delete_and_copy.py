"""Deleting, replacing and copying models: whose blobs go, and whose stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.errors import (
    Conflict,
    InvalidModelName,
)
from services.shared.model_name import ModelName
from services.shared.store.model_store import DeleteResult, ModelStore
from tests.shared.store.builders import (
    blob_names,
    make_manifest,
    names,
    put_model,
    stored,
)


def test_deleting_frees_exactly_the_blobs_of_no_other_model(store: ModelStore) -> None:
    put_model(store, "a:1", {"m.gguf": b"shared" * 100})
    put_model(store, "b:1", {"m.gguf": b"shared" * 100, "x.gguf": b"own" * 7})

    assert store.delete("b:1") == DeleteResult("b:1", 21)
    assert names(store) == ["a:1"]
    assert store.delete("a:1") == DeleteResult("a:1", 600)
    assert blob_names(store.layout.root) == set()
    assert list((store.layout.root / "views").iterdir()) == []
    assert list((store.layout.root / "trash").iterdir()) == []


def test_putting_another_model_under_a_name_removes_the_old_blobs(store: ModelStore) -> None:
    put_model(store, "a:1", {"m.gguf": b"old"})

    new = put_model(store, "a:1", {"m.gguf": b"new"})

    assert blob_names(store.layout.root) == {store.file_path(new.files[0]).name}


def test_a_copy_shares_the_blobs_and_outlives_the_original(store: ModelStore) -> None:
    original = put_model(store, "a:1")

    copy = store.copy("a:1", "Mine:x")
    freed = store.delete("a:1").freed_bytes

    assert (copy.name, copy.digest, freed) == ("Mine:x", original.digest, 0)
    assert store.resolve("mine:x") == copy


def test_a_copy_replaces_no_other_model(store: ModelStore) -> None:
    original = put_model(store, "a:1")
    other = put_model(store, "b:1")

    with pytest.raises(Conflict, match="delete it first"):
        store.copy("a:1", "B:1")
    with pytest.raises(InvalidModelName):
        store.copy("a:1", "https://host/x.gguf")

    assert store.list() == [original, other]


def test_a_copy_does_not_replace_a_damaged_model(store: ModelStore) -> None:
    put_model(store, "a:1")
    put_model(store, "b:1")
    store.layout.manifest(ModelName.parse("b:1")).write_text("{")

    with pytest.raises(Conflict, match="delete it first"):
        store.copy("a:1", "b:1")


def test_a_copy_may_be_made_again(store: ModelStore) -> None:
    put_model(store, "a:1")

    assert store.copy("a:1", "c:1") == store.copy("a:1", "C:1")


def test_a_damaged_manifest_still_protects_the_blobs_it_names(store: ModelStore) -> None:
    put_model(store, "a:1", {"m.gguf": b"shared"})
    put_model(store, "b:1", {"m.gguf": b"shared"})
    path = store.layout.root / "manifests/ollama.com/library/b/1.json"
    path.write_bytes(path.read_bytes()[:-2])

    assert store.delete("a:1").freed_bytes == 0
    assert len(blob_names(store.layout.root)) == 1


def test_deleting_a_hard_linked_blob_frees_nothing_and_keeps_the_original(
    store: ModelStore, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.gguf"
    theirs.write_bytes(b"weights")
    blob = store.blobs.add_file(theirs)
    file = stored("m.gguf", b"weights")
    store.put(make_manifest("a:1", {"m.gguf": b"weights"}, files=(file,)))

    assert (blob.linked, store.delete("a:1").freed_bytes) == (True, 0)
    assert theirs.read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["{", " " * (17 << 20)], ids=["no JSON", "too large"])
def test_a_damaged_manifest_protects_its_blobs_and_can_be_deleted(
    store: ModelStore, damage: str
) -> None:
    put_model(store, "a:1", {"m.gguf": b"weights"})
    put_model(store, "b:1")
    path = store.layout.manifest(ModelName.parse("a:1"))
    path.write_text(damage + path.read_text())

    assert store.sweep(min_age_seconds=0).files == 0
    assert store.delete("b:1").name == "b:1"
    assert store.delete("a:1").freed_bytes == len(b"weights")
    assert not path.exists()
