"""Imports of local models: without copies, and without changes to the originals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.puller.importing.local_files import default_model_name, import_file, import_folder
from services.shared.errors import InvalidModelFile, InvalidModelName, NotFound
from services.shared.store.manifest import Capability, FileRole
from services.shared.store.model_store import ModelStore
from tests.conftest import ROOT, TINY_GGUF
from tests.puller.formats.gguf.writer import write_gguf
from tests.puller.formats.mlx.writer import write_mlx
from tests.puller.importing.split_model import write_split


def blobs(store: ModelStore) -> list[Path]:
    return sorted((store.layout.root / "blobs").glob("*"))


def test_the_tiny_model_is_imported_under_a_name(store: ModelStore) -> None:
    manifest = import_file(store, TINY_GGUF, "tiny", link=False)

    assert store.resolve("tiny") == manifest
    assert (manifest.name, manifest.owned) == ("tiny:latest", True)
    assert Capability.CHAT in manifest.description.capabilities
    assert store.model_path(manifest).read_bytes() == TINY_GGUF.read_bytes()


def test_a_linked_import_uses_no_space_and_its_deletion_keeps_the_original(
    store: ModelStore, tmp_path: Path
) -> None:
    source = tmp_path / "mine.gguf"
    source.write_bytes(write_gguf())

    manifest = import_file(store, source, "mine")
    same_file = store.model_path(manifest).samefile(source)
    freed = store.delete("mine").freed_bytes

    assert (manifest.owned, same_file, freed, source.is_file()) == (False, True, 0, True)


def test_naming_one_part_imports_all_parts_of_a_split_model(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = write_split(tmp_path / "split")

    manifest = import_file(store, folder / "m-Q4_K_M-00002-of-00002.gguf", "split")

    assert len(manifest.files) == 2
    assert store.model_path(manifest).name == "m-Q4_K_M-00001-of-00002.gguf"


LOAD = """
import sys
from tests.models.llama import library
llama = library()
model = llama.llama_model_load_from_file(
    sys.argv[1].encode(), llama.llama_model_default_params()
)
print(llama.llama_model_n_params(model))
"""


def split_tiny(folder: Path) -> Path:
    """Split the tiny model as llama.cpp's converter does, and return the first part."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(TINY_GGUF)
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama", split_max_tensors=20)
    for key, found in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kinds = [*found.types, None][:2]
            writer.add_key_value(key, found.contents(), kinds[0], kinds[1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(folder.glob("*.gguf"))


def test_llama_cpp_opens_whole_and_split_models_of_the_store(
    store: ModelStore, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    whole = import_file(store, TINY_GGUF, "whole", link=False)
    split = import_file(store, split_tiny(tmp_path), "split")
    assert (len(split.files), split.description.parameter_count) == (2, 1115264)

    for manifest in (whole, split):
        command = [sys.executable, "-c", LOAD, str(store.model_path(manifest))]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert answer.stdout == "1115264\n"


def test_a_missing_part_is_named(store: ModelStore, tmp_path: Path) -> None:
    folder = write_split(tmp_path / "split")
    (folder / "m-Q4_K_M-00002-of-00002.gguf").unlink()

    with pytest.raises(InvalidModelFile, match="m-Q4_K_M-00002-of-00002"):
        import_file(store, folder / "m-Q4_K_M-00001-of-00002.gguf", "split")


@pytest.mark.parametrize("content", [b"", b"not a model", write_gguf(tensors=())])
def test_an_invalid_file_leaves_nothing_in_the_store(
    store: ModelStore, tmp_path: Path, content: bytes
) -> None:
    source = tmp_path / "x.gguf"
    source.write_bytes(content)

    with pytest.raises(InvalidModelFile):
        import_file(store, source, "x")

    assert (store.list(), blobs(store), source.read_bytes()) == ([], [], content)


def test_a_wrong_name_or_path_does_not_create_the_store(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelName):
        import_file(store, TINY_GGUF, "../tiny")
    for missing in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(NotFound):
            import_file(store, missing, "tiny")

    assert not store.layout.root.exists()


@pytest.mark.usefixtures("mlx_engine")
def test_an_mlx_folder_is_imported_without_its_code(store: ModelStore, tmp_path: Path) -> None:
    folder = write_mlx(tmp_path / "m", {"modeling.py": b"evil", "README.md": b"hello"})

    manifest = import_folder(store, folder, "mlx-model")

    names = sorted(p.name for p in store.model_path(manifest).iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.usefixtures("vision_engine")
def test_a_folder_of_a_gguf_and_its_projector_is_one_model(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = tmp_path / "vision"
    folder.mkdir()
    (folder / "vision-Q8_0.gguf").write_bytes(write_gguf())
    (folder / "mmproj-f16.gguf").write_bytes(write_gguf({"general.architecture": "clip"}))

    manifest = import_folder(store, folder, "vision")

    assert {f.path: f.role for f in manifest.files} == {
        "vision-Q8_0.gguf": FileRole.MODEL,
        "mmproj-f16.gguf": FileRole.PROJECTOR,
    }


def test_without_an_engine_for_it_an_mlx_folder_is_refused(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = write_mlx(tmp_path / "m")

    with pytest.raises(InvalidModelFile, match="no engine for them here"):
        import_folder(store, folder, "mlx-model")


def test_a_folder_whose_name_is_no_text_is_imported(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"mod\xffel")
    folder.mkdir()
    (folder / "m.gguf").write_bytes(write_gguf())

    assert import_folder(store, folder, "mine").source == "import of mod�el"


def test_a_folder_without_a_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match="the folder has neither a GGUF"):
        import_folder(store, tmp_path, "x")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Qwen3-0.6B.gguf", "Qwen3-0.6B"),
        ("big-00001-of-00009.GGUF", "big"),
        ("mein Modell (2).gguf", "mein-Modell-2"),
        ("....gguf", "model"),
        ("-rf.gguf", "rf"),
        ("a..b.gguf", "a-b"),
    ],
)
def test_the_default_name_resembles_the_file_name(file: str, name: str) -> None:
    assert default_model_name(Path(file)) == name


def test_warnings_about_the_choice_of_files_are_kept(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a-Q8_0.gguf", "b-Q8_0.gguf"):
        (folder / name).write_bytes(write_gguf())

    warnings = import_folder(store, folder, "two").description.warnings

    assert "the folder has 2 models of this kind; a-Q8_0.gguf was selected" in warnings
