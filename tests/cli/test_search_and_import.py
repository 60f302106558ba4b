"""`search` and `import`: their requests, their output, and one real import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.commands.import_ import build_arguments, build_environment
from services.cli.commands.search import collect_notes, format_row, search_path
from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.shared.store.model_store import ModelStore
from tests.conftest import ROOT, TINY_GGUF

HIT = {
    "name": "owner/repo:Q4_K_M",
    "source": "huggingface",
    "format": "gguf",
    "quantization": "q4_k_m",
    "quantizations": ["q4_k_m", "q8_0"],
    "size_bytes": 4_700_000_000,
    "fits": "yes",
    "downloads": 12345,
    "gated": False,
}


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        (
            {},
            ["owner/repo:Q4_K_M", "huggingface", "gguf", "4.7 GB", "yes", "12,345", "q4_k_m q8_0"],
        ),
        (
            {"size_bytes": None, "fits": "unknown", "downloads": None, "gated": True}
            | {"quantizations": [], "quantization": "4bit"},
            ["owner/repo:Q4_K_M (gated)", "huggingface", "gguf", "-", "?", "-", "4bit"],
        ),
    ],
    ids=["all known", "little known"],
)
def test_a_hit_is_one_row(changes: dict[str, Any], row: list[str]) -> None:
    assert format_row(HIT | changes) == row


def test_a_search_is_encoded_as_a_path() -> None:
    assert search_path("qwen 3&", limit=5, format=None, sort="size") == (
        "/v1/search?q=qwen+3%26&limit=5&sort=size"
    )
    assert search_path("q", limit=1, format="mlx", sort="name").endswith("&sort=name&format=mlx")


def test_notes_are_shown_with_the_available_memory() -> None:
    answer = {"data": [HIT | {"gated": True}], "notes": ["a"], "room_bytes": 8_000_000_000}

    assert collect_notes(answer) == [
        "note: a",
        "note: gated models need a Hugging Face token that may read them",
        "models may use 8.0 GB of this computer's memory",
    ]


@pytest.mark.parametrize(
    "options", [["--limit", "0"], ["--format", "onnx"], ["--sort", "luck"]], ids=lambda o: o[0]
)
def test_invalid_options_are_refused(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["search", "x", *options]).exit_code == 2


def test_exactly_one_source_can_be_imported() -> None:
    def arguments(path: str | None = None, **given: Any) -> list[str]:
        options = {"ollama": None, "hf": None, "name": None, "copy": False, **given}
        return build_arguments(Path(path) if path else None, **options)

    assert arguments("/m.gguf", name="m") == ["--any", "/m.gguf", "--name", "m"]
    assert arguments(ollama=Path("/o"), copy=True) == ["--ollama", "/o", "--copy"]
    for wrong in ({}, {"path": "/m", "hf": Path("/h")}, {"ollama": Path("/o"), "hf": Path("/h")}):
        with pytest.raises(CommandError, match="give one of"):
            arguments(**wrong)
    with pytest.raises(CommandError, match="--name is only for"):
        arguments(hf=Path("/h"), name="m")


def test_the_importer_gets_the_data_directory(tmp_path: Path) -> None:
    environment = build_environment(
        StackPaths(tmp_path), {"SPINDLL_DATA_DIR": "elsewhere", "LANG": "C"}
    )

    assert (environment["SPINDLL_DATA_DIR"], environment["LANG"]) == (str(tmp_path), "C")


def test_a_file_is_imported_and_the_output_is_shown(tmp_path: Path) -> None:
    def spindll(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments, "--data", str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert spindll("import", str(TINY_GGUF), "--name", "mine", "--copy") == (
        0,
        f"imported mine:latest ({TINY_GGUF.stat().st_size:,} bytes)\n",
        "",
    )
    assert [m.name for m in ModelStore(tmp_path / "models").list()] == ["mine:latest"]
    assert spindll("import", "missing.gguf") == (
        1,
        "",
        "not imported: there is no file or folder missing.gguf\n",
    )
