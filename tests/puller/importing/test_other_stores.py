"""Imports of what other programs keep: Ollama, the cache of Hugging Face, LM Studio."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.puller.importing.other_stores import (
    ImportResult,
    import_hub_cache,
    import_ollama,
    import_path,
)
from services.shared.store.model_store import ModelStore
from tests.puller.formats.gguf.writer import write_gguf
from tests.puller.formats.mlx.writer import write_mlx
from tests.puller.importing.split_model import write_split


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


def test_the_commit_of_main_is_imported_not_an_older_one(store: ModelStore, tmp_path: Path) -> None:
    for commit, name in (("a" * 40, "new"), ("b" * 40, "old")):
        write_hub(
            tmp_path, "owner/repo", {"m-Q8_0.gguf": write_gguf({"general.name": name})}, commit
        )
    (tmp_path / "models--owner--repo" / "refs" / "main").write_text("a" * 40)

    import_hub_cache(store, tmp_path)

    assert store.resolve("owner/repo").description.base_model == "new"


@pytest.mark.timeout(20)
def test_a_reference_that_names_no_commit_does_not_stop_the_import(
    store: ModelStore, tmp_path: Path
) -> None:
    references = {"long": b"c" * 1000, "above": b"..", "bytes": b"\xff\n", "pipe": None}
    for name, text in references.items():
        write_hub(tmp_path, f"owner/{name}", {"m-Q8_0.gguf": write_gguf()})
        main = tmp_path / f"models--owner--{name}" / "refs" / "main"
        main.unlink()
        if text is None:
            os.mkfifo(main)
        else:
            main.write_bytes(text)

    result = import_hub_cache(store, tmp_path)

    assert set(result.names) == {f"owner/{name}:Q8_0" for name in references}
    assert {store.resolve(name).files[0].path for name in result.names} == {"m-Q8_0.gguf"}
