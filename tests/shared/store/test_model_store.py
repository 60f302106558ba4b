"""List, resolve, open, put and delete models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.shared.errors import (
    Conflict,
    InvalidModelFile,
    InvalidModelName,
    ModelNotFound,
)
from services.shared.model_name import ModelName
from services.shared.store.manifest import Description, FileRole
from services.shared.store.model_store import DeleteResult, ModelStore
from tests.shared.store.builders import (
    blob_names,
    make_manifest,
    names,
    put_model,
    stored,
)

MLX = Description(format="mlx", architecture="llama")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


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


def test_the_shorter_spellings_of_a_name_find_it(store: ModelStore) -> None:
    put_model(store, "owner/repo:Q4_K_M", {"sub/The-Model.Q4_K_M.gguf": b"q4"})
    put_model(store, "qwen3:0.6b")

    found = {
        text: store.resolve(text).name
        for text in (
            "OWNER/Repo:q4_k_m",
            "owner/repo",
            "owner/repo:latest",
            "hf.co/owner/repo",
            "owner/repo/The-Model.Q4_K_M.gguf",
            "the-model.q4_k_m.gguf",
            "qwen3",
            "ollama/qwen3/0.6b.gguf",
            "library/qwen3:0.6b",
        )
    }

    assert set(found.values()) == {"owner/repo:Q4_K_M", "qwen3:0.6b"}
    assert [t for t, name in found.items() if name == "qwen3:0.6b"] == [
        "qwen3",
        "ollama/qwen3/0.6b.gguf",
        "library/qwen3:0.6b",
    ]


def test_without_a_tag_latest_wins_over_newer_ones(store: ModelStore) -> None:
    put_model(store, "m:latest", created_at=1.0)
    put_model(store, "m:new", created_at=9.0)

    assert store.resolve("m").name == "m:latest"


def test_without_latest_the_newest_wins_and_then_the_first_by_name(store: ModelStore) -> None:
    put_model(store, "m:a", created_at=2.0)
    put_model(store, "m:c", created_at=5.0)
    put_model(store, "m:b", created_at=5.0)

    assert {store.resolve("m").name for _ in range(5)} == {"m:b"}


def test_an_explicit_tag_does_not_match_another_tag(store: ModelStore) -> None:
    put_model(store, "m:7b")

    with pytest.raises(ModelNotFound) as caught:
        store.resolve("m:8b")
    assert caught.value.details == {"models": ["m:7b"]}


def test_a_digest_names_a_model(store: ModelStore) -> None:
    manifest = put_model(store, "m:7b")

    assert store.resolve(manifest.digest) == manifest
    assert store.resolve(manifest.digest[:20]) == manifest


def test_a_model_is_found_by_its_base_model(store: ModelStore) -> None:
    description = Description(format="gguf", architecture="llama", base_model="Tiny-Test-1B")
    put_model(store, "m:7b", description=description)

    assert store.resolve("tiny-test:1b").name == "m:7b"


def test_a_text_that_is_not_a_name_raises_invalid_model_name(store: ModelStore) -> None:
    for ask in (store.resolve, store.delete):
        with pytest.raises(InvalidModelName):
            ask("../../etc/passwd")


def test_an_unknown_name_lists_the_stored_models(store: ModelStore) -> None:
    put_model(store, "a:1")
    put_model(store, "b:1")

    with pytest.raises(ModelNotFound, match="a:1, b:1") as caught:
        store.resolve("c")
    assert caught.value.details == {"models": ["a:1", "b:1"]}


def test_names_that_differ_in_case_are_one_model(store: ModelStore) -> None:
    put_model(store, "Model:One")
    put_model(store, "model:one")

    assert names(store) == ["model:one"]
    assert len(blob_names(store.layout.root)) == 1


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


def test_a_revision_is_found_by_its_own_name_only(store: ModelStore) -> None:
    old = put_model(store, "owner/repo@v1:Q8_0", {"m.gguf": b"old"})

    assert store.resolve("Owner/repo@V1") == store.resolve("owner/repo@v1/m.gguf") == old
    for other in ("owner/repo", "owner/repo:Q8_0", "owner/repo/m.gguf", "owner/repo@v2"):
        with pytest.raises(ModelNotFound):
            store.resolve(other)
        with pytest.raises(ModelNotFound):
            store.delete(other)


def test_an_ambiguous_name_deletes_nothing(store: ModelStore) -> None:
    put_model(store, "m:7b")
    put_model(store, "m:8b")

    with pytest.raises(ModelNotFound):
        store.delete("m:latest")
    with pytest.raises(Conflict, match="m:7b, m:8b"):
        store.delete("m")
    assert names(store) == ["m:7b", "m:8b"]


def test_a_name_without_a_tag_deletes_the_only_match(store: ModelStore) -> None:
    put_model(store, "owner/repo:Q4_K_M")

    assert store.delete("owner/repo").name == "owner/repo:Q4_K_M"


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
