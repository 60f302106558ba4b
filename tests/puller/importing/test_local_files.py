"""Imports of local models: without copies, and without changes to the originals."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.puller.importing.local_files import default_model_name, import_file, import_folder
from services.puller.importing.other_stores import (
    ImportResult,
    import_hub_cache,
    import_ollama,
    import_path,
)
from services.shared.errors import InvalidModelFile, InvalidModelName, NotFound
from services.shared.store.manifest import Capability, FileRole
from services.shared.store.model_store import ModelStore
from tests.conftest import ROOT, TINY_GGUF
from tests.puller.formats.gguf.writer import TENSORS, write_gguf
from tests.puller.formats.mlx.writer import write_mlx


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def blobs(store: ModelStore) -> list[Path]:
    return sorted((store.layout.root / "blobs").glob("*"))


def write_split(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in (0, 1):
        header = {"split.no": i, "split.count": 2, "split.tensors.count": 2}
        data = write_gguf(header, tensors=[TENSORS[i]])
        (folder / f"m-Q4_K_M-0000{i + 1}-of-00002.gguf").write_bytes(data)
    return folder


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


def write_ollama(root: Path, name: str, layers: dict[str, bytes], **lies: Any) -> None:
    """Add a model to an Ollama store, as a pull of Ollama would write it."""
    entries = []
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    for kind, data in layers.items():
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs" / f"sha256-{digest}").write_bytes(lies.get(kind, data))
        media_type = f"application/vnd.ollama.image.{kind}"
        if kind == "config":
            media_type = "application/vnd.docker.container.image.v1+json"
        entries.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)})
    config, *rest = entries
    path = root / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": rest}))


LAYERS = {
    "config": b'{"model_format":"gguf"}',
    "model": write_gguf(),
    "template": b"{{ .System }}<|im_start|>{{ .Prompt }}<|im_end|>",
    "params": b'{"temperature": 0.2, "stop": ["<|im_end|>"]}',
    "system": b"Be brief.",
    "license": b"MIT",
}


def test_an_ollama_store_is_imported_with_all_its_layers(store: ModelStore, tmp_path: Path) -> None:
    root = tmp_path / "ollama"
    write_ollama(root, "registry.ollama.ai/library/small/0.1b", LAYERS)
    write_ollama(root, "registry.ollama.ai/someone/theirs/latest", LAYERS)
    write_ollama(root, "hf.co/owner/repo/Q4_K_M", LAYERS)

    result = import_path(store, root)

    assert set(result.names) == {
        "small:0.1b",
        "ollama.com/someone/theirs:latest",
        "owner/repo:Q4_K_M",
    }
    manifest = store.resolve("small:0.1b")
    assert (manifest.params, manifest.system, manifest.license, manifest.owned) == (
        {"temperature": 0.2, "stop": ["<|im_end|>"]},
        "Be brief.",
        "MIT",
        False,
    )
    description = manifest.description
    assert (description.template_source, description.template_language) == ("ollama", "go")
    theirs = next(f for f in (root / "blobs").iterdir() if f.stat().st_size > 400)
    assert store.model_path(manifest).samefile(theirs)


def test_a_damaged_model_does_not_stop_the_import_of_the_others(
    store: ModelStore, tmp_path: Path
) -> None:
    root = tmp_path / "ollama"
    write_ollama(root, "registry.ollama.ai/library/good/1", LAYERS)
    bad = LAYERS | {"model": write_gguf({"general.name": "other"})}
    write_ollama(root, "registry.ollama.ai/library/bad/1", bad, model=b"flipped")
    (root / "manifests/registry.ollama.ai/library/bad/2").write_text("{")

    result = import_ollama(store, root)

    assert result.names == ("good:1",)
    assert {name.rsplit("/", 1)[1]: reason for name, reason in result.failures.items()} == {
        "bad:1": "the bytes do not have the expected sha256 digest",
        "bad:2": "the registry's manifest is not readable",
    }


def write_hub(root: Path, repo: str, files: dict[str, bytes], commit: str = "c" * 40) -> Path:
    """Add a repository to a Hugging Face cache: a snapshot of links into blobs."""
    folder = root / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + name.count("/")), "blobs", blob.name))
    return folder


@pytest.mark.usefixtures("mlx_engine")
def test_each_quantisation_of_a_hub_cache_is_imported(store: ModelStore, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    other = write_gguf({"general.name": "other"})
    write_hub(root, "owner/some--repo", {"m-Q8_0.gguf": write_gguf(), "q4/m-Q4_K_M.gguf": other})
    parts = {p.name: p.read_bytes() for p in write_split(tmp_path / "s").iterdir()}
    write_hub(root, "owner/split", parts)
    mlx = write_mlx(tmp_path / "mlx")
    write_hub(root, "owner/mlx", {p.name: p.read_bytes() for p in mlx.iterdir()})
    write_hub(root, "owner/torch", {"config.json": b"{}", "pytorch_model.bin": b"x"})

    result = import_path(store, tmp_path)

    assert result == ImportResult(
        (
            "owner/mlx:latest",
            "owner/some--repo:Q8_0",
            "owner/some--repo:Q4_K_M",
            "owner/split:Q4_K_M",
        )
    )
    assert store.model_path(store.resolve("owner/mlx")).is_dir()
    cached = root / "models--owner--some--repo" / "blobs" / hashlib.sha256(other).hexdigest()
    assert store.model_path(store.resolve("owner/some--repo:q4_k_m")).samefile(cached)


def test_every_model_of_an_lm_studio_folder_is_imported(store: ModelStore, tmp_path: Path) -> None:
    root = tmp_path / "models"
    other = write_gguf({"general.name": "other"})
    for path, data in {
        "friend/Big-GGUF/Big-Q8_0.gguf": write_gguf(),
        "friend/Big-GGUF/Big-Q4_K_M.gguf": other,
        "friend/Small-GGUF/Small.gguf": other,
        "friend/Small-GGUF/mmproj-f16.gguf": b"a part of it",
        "friend/empty/README.md": b"",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    assert import_path(store, root) == ImportResult(
        ("friend/Big-GGUF:Q4_K_M", "friend/Big-GGUF:Q8_0", "friend/Small-GGUF/Small.gguf")
    )


def test_warnings_about_the_choice_of_files_are_kept(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a-Q8_0.gguf", "b-Q8_0.gguf"):
        (folder / name).write_bytes(write_gguf())

    warnings = import_folder(store, folder, "two").description.warnings

    assert "the folder has 2 models of this kind; a-Q8_0.gguf was selected" in warnings


def test_the_commit_of_main_is_imported_not_an_older_one(store: ModelStore, tmp_path: Path) -> None:
    for commit, name in (("a" * 40, "new"), ("b" * 40, "old")):
        write_hub(
            tmp_path, "owner/repo", {"m-Q8_0.gguf": write_gguf({"general.name": name})}, commit
        )
    (tmp_path / "models--owner--repo" / "refs" / "main").write_text("a" * 40)

    import_hub_cache(store, tmp_path)

    assert store.resolve("owner/repo").description.base_model == "new"
