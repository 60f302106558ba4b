"""List, open and put models, and what a hostile store cannot do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.shared.errors import (
    InvalidModelFile,
    ModelNotFound,
)
from services.shared.store.manifest import Description, FileRole
from services.shared.store.model_store import ModelStore
from tests.shared.store.builders import (
    make_manifest,
    names,
    put_model,
    stored,
)

MLX = Description(format="mlx", architecture="llama")


def test_reading_a_store_creates_nothing(store: ModelStore) -> None:
    assert store.list() == []
    with pytest.raises(ModelNotFound, match="none yet"):
        store.resolve("tiny")

    assert not store.layout.root.exists()


def test_a_model_is_listed_once_it_was_put(store: ModelStore) -> None:
    manifest = put_model(store, "b:latest")
    other = put_model(store, "A:latest")

    assert store.list() == [other, manifest]
    assert store.resolve("b") == manifest


def test_another_process_sees_a_model_put_after_it_looked(store: ModelStore) -> None:
    reader = ModelStore(store.layout.root)
    assert reader.list() == []

    put_model(store, "a:1")

    assert names(reader) == ["a:1"]


def test_a_replaced_manifest_is_read_again(store: ModelStore) -> None:
    put_model(store, "a:1", {"model.gguf": b"one"})
    reader = ModelStore(store.layout.root)
    assert reader.resolve("a:1").source == "a test"

    put_model(store, "a:1", {"model.gguf": b"one"}, source="again")

    assert reader.resolve("a:1").source == "again"


def test_a_manifest_without_its_blob_is_refused(store: ModelStore) -> None:
    with pytest.raises(InvalidModelFile, match=r"model\.gguf"):
        store.put(make_manifest("a", {"model.gguf": b"never stored"}))

    assert store.list() == []


def test_a_model_whose_blob_vanished_is_not_listed_but_can_be_deleted(store: ModelStore) -> None:
    manifest = put_model(store, "a:1")
    store.file_path(manifest.files[0]).unlink()

    assert store.list() == []
    with pytest.raises(ModelNotFound):
        store.resolve("a:1")
    assert store.delete("a:1").name == "a:1"


def test_a_model_with_a_truncated_blob_is_not_listed(store: ModelStore) -> None:
    manifest = put_model(store, "a:1")
    os.truncate(store.file_path(manifest.files[0]), 1)

    assert store.list() == []


def test_a_single_gguf_is_opened_as_its_blob(store: ModelStore) -> None:
    manifest = put_model(store, "m", {"m.gguf": b"weights"})

    assert store.model_path(manifest) == store.file_path(manifest.files[0])


def test_a_split_gguf_is_opened_by_its_first_part_beside_the_others(store: ModelStore) -> None:
    parts = {f"Q4/m-0000{i}-of-00002.gguf": bytes([i]) for i in (2, 1)}
    manifest = put_model(store, "m", parts)

    path = store.model_path(manifest)

    assert path.name == "m-00001-of-00002.gguf"
    assert path.read_bytes() == b"\x01"
    assert path.with_name("m-00002-of-00002.gguf").read_bytes() == b"\x02"


def test_an_mlx_model_is_opened_as_a_folder_wherever_the_store_is_mounted(
    store: ModelStore, tmp_path: Path
) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"w", "extra/merges.txt": b"m"}
    manifest = put_model(store, "m", files, description=MLX)
    assert store.model_path(manifest).is_dir()

    moved = ModelStore(store.layout.root.rename(tmp_path / "elsewhere"))

    folder = moved.model_path(moved.resolve("m"))
    assert {p: (folder / p).read_bytes() for p in files} == files


def test_files_that_collide_without_case_are_refused(store: ModelStore) -> None:
    with pytest.raises(InvalidModelFile, match="case"):
        put_model(
            store, "m", {"Model.safetensors": b"1", "model.safetensors": b"2"}, description=MLX
        )


@pytest.mark.parametrize(
    "path",
    ["../x", "/abs", "a/../../x", "a\x00b", "a\\b", "", ".", "a//b", " a", "x" * 401, "c:x"],
)
def test_an_unsafe_file_path_is_refused(store: ModelStore, path: str) -> None:
    with pytest.raises(InvalidModelFile):
        put_model(store, "m", {path: b"weights", "b": b"more"}, description=MLX)

    assert store.list() == []


def test_a_planted_manifest_is_skipped(store: ModelStore) -> None:
    put_model(store, "good:1")
    folder = store.layout.root / "manifests" / "ollama.com" / "library" / "bad"
    folder.mkdir()
    honest = make_manifest("bad:1", {"m": b"x"})
    hostile = [
        msgspec.structs.replace(honest, files=(msgspec.structs.replace(honest.files[0], digest=d),))
        for d in ("sha256:../../../etc/passwd", "/etc/passwd", "")
    ]
    planted = [msgspec.json.encode(m) for m in hostile]
    planted += [b"", b"{", b"[]", b"\xff" * 100, msgspec.json.encode({"schema": 99})]
    planted.append(msgspec.json.encode(msgspec.structs.replace(honest, name="other:1")))
    for i, data in enumerate(planted):
        (folder / f"{i}.json").write_bytes(data)

    assert names(store) == ["good:1"]


def test_links_in_the_store_are_neither_followed_nor_written_through(
    store: ModelStore, tmp_path: Path
) -> None:
    manifest = put_model(store, "good:1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.layout.root / "manifests" / "evil.example").symlink_to(outside)
    (outside / "target").write_bytes(b"good:1")

    with pytest.raises(InvalidModelFile, match="link"):
        put_model(store, "evil.example/ns/model:1", {"m": b"x"})
    blob = store.file_path(manifest.files[0])
    blob.unlink()
    blob.symlink_to(outside / "target")

    assert store.list() == []
    assert sorted(p.name for p in outside.rglob("*")) == ["target"]


def test_a_single_gguf_with_other_files_needs_no_view(store: ModelStore) -> None:
    store.blobs.add_bytes(b"weights")
    store.blobs.add_bytes(b"text")
    licences = [stored("license.txt", b"text", FileRole.LICENSE)] * 2
    manifest = make_manifest("a:1", {}, files=(stored("m.gguf", b"weights"), *licences))

    store.put(manifest)

    assert store.model_path(store.resolve("a")).read_bytes() == b"weights"


def test_a_manifest_that_would_be_too_large_to_read_is_refused(store: ModelStore) -> None:
    store.blobs.add_bytes(b"w")
    with pytest.raises(InvalidModelFile, match="larger than any real"):
        store.put(make_manifest("big:1", {"m.gguf": b"w"}, license="x" * (17 << 20)))

    assert names(store) == []


@pytest.fixture
def _as_another_user() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.usefixtures("_as_another_user")
def test_a_folder_of_another_owner_is_not_writable() -> None:
    with pytest.raises(PermissionError):
        ModelStore(Path("/models-of-another-user")).check_writable()


def test_a_usable_folder_is_writable_and_stays_empty(store: ModelStore) -> None:
    store.check_writable()

    assert [path for path in store.layout.root.rglob("*.*") if path.name != ".lock"] == []


def test_a_manifest_that_a_reader_cannot_follow_is_skipped(store: ModelStore) -> None:
    put_model(store, "whole:1")
    deep = put_model(store, "deep:1", params={"marker": 1})
    [path] = store.layout.manifests.rglob("deep/1.json")
    nested = b"[" * 100_000 + b"]" * 100_000
    path.write_bytes(path.read_bytes().replace(b'"marker": 1', b'"marker": ' + nested))

    assert names(store) == ["whole:1"]
    # What a damaged manifest names is kept, until it is deleted.
    assert store.sweep(min_age_seconds=0).files == 0
    assert store.delete("deep:1").freed_bytes == deep.size_bytes
