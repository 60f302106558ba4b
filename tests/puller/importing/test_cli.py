"""The command behind `spindll import`: its output, its exit status, and the store afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from services.puller.importing.cli import main
from services.shared.store.model_store import ModelStore
from tests.puller.formats.gguf.writer import write_gguf


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """The store in SPINDLL_DATA_DIR."""
    monkeypatch.setenv("SPINDLL_DATA_DIR", str(tmp_path / "data"))
    return ModelStore(tmp_path / "data" / "models")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "Mine-Q8_0.gguf"
    path.write_bytes(write_gguf())
    return path


def write_ollama(root: Path, models: dict[str, bytes]) -> None:
    for name, data in models.items():
        digest = hashlib.sha256(data).hexdigest()
        layer = {
            "mediaType": "application/vnd.ollama.image.model",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }
        manifest = root / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
        (root / "blobs").mkdir(exist_ok=True)
        (root / "blobs" / f"sha256-{digest}").write_bytes(data)


def test_a_file_is_imported_under_its_own_name_without_copying(
    store: ModelStore, gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--any", str(gguf)]) == 0

    manifest = store.resolve("Mine-Q8_0")
    assert store.model_path(manifest).samefile(gguf)
    size = f"{gguf.stat().st_size:,}"
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == (
        f"imported Mine-Q8_0:latest ({size} bytes, sharing the bytes of the original)"
    )
    assert output.err == ""


def test_a_copy_is_imported_under_another_name(
    store: ModelStore, gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--any", str(gguf), "--name", "mine:q8", "--copy"]) == 0

    manifest = store.resolve("mine:q8")
    assert (manifest.owned, store.model_path(manifest).samefile(gguf)) == (True, False)
    assert "sharing" not in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["ollama/models", "ollama"])
def test_an_ollama_folder_is_found_with_or_without_its_models_folder(
    store: ModelStore, tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"good": write_gguf(), "bad": b"no model"}
    write_ollama(tmp_path / "ollama" / "models", models)

    assert main(["--ollama", str(tmp_path / folder)]) == 1

    output = capsys.readouterr()
    assert [m.name for m in store.list()] == ["good:latest"]
    assert output.out.startswith("imported good:latest (")
    [line] = output.err.splitlines()
    assert line.startswith("not imported: registry.ollama.ai/library/bad:latest: ")


def test_a_hub_cache_is_found_with_or_without_its_hub_folder(
    store: ModelStore, tmp_path: Path, gguf: Path
) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--owner--repo" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    os.link(gguf, snapshot / "m-Q8_0.gguf")

    assert main(["--hf", str(tmp_path / "hf")]) == 0
    assert main(["--hf", str(tmp_path / "hf" / "hub")]) == 0
    assert [m.name for m in store.list()] == ["owner/repo:Q8_0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--any", "missing.gguf"], "not imported: there is no file or folder missing.gguf"),
        (["--ollama", "."], "is not an Ollama store: it has no manifests and blobs"),
        (["--hf", "."], "is not a Hugging Face cache: it has no models--* folder"),
        (["--any", "Mine-Q8_0.gguf", "--name", "../up"], "not imported: "),
    ],
    ids=["no file", "no Ollama store", "no cache", "a bad name"],
)
def test_a_failed_import_prints_one_line(
    store: ModelStore,
    gguf: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(gguf.parent)

    assert main([arguments[0], str(Path(arguments[1]).absolute()), *arguments[2:]]) == 1

    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert store.list() == []


def test_an_empty_ollama_store_is_reported(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("manifests", "blobs"):
        (tmp_path / "ollama" / folder).mkdir(parents=True)

    assert main(["--ollama", str(tmp_path / "ollama")]) == 1
    assert capsys.readouterr().err == "there is no model to import\n"
