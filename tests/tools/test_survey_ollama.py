"""The survey of Ollama's library against a registry on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.formats.gguf.writer import TENSORS, TensorSpec, write_gguf
from tools.survey_ollama import MAX_HEADER_BYTES, main
from tools.survey_table import Finding, write_tables

NAMES = ("jinja", "both", "renderer", "newer", "lora", "gone")
SIZE = 40 << 20
PAGE = "".join(f'<li><a href="/library/{name}" class="x">…</a></li>' for name in (*NAMES, "jinja"))


@pytest.fixture
def cdn() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def big() -> bytes:
    """A model without a template and with 40 MiB of weights."""
    return write_gguf(tensors=[*TENSORS, TensorSpec("blk.0.ffn_up.weight", (1024, SIZE // 4096))])


@pytest.fixture
def registry(
    cdn: LoopbackServer, big: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    tiny = TINY_GGUF.read_bytes()
    unknown = write_gguf({"general.architecture": "tomorrow"})
    with Registry(cdn=cdn) as server:
        server.add_model("library/jinja:latest", {"model": tiny})
        server.add_model("library/both:latest", {"model": tiny, "template": b"{{ .Prompt }}"})
        server.add_model(
            "library/renderer:latest", {"model": big}, config={"renderer": "qwen3-coder"}
        )
        server.add_model("library/newer:latest", {"model": unknown, "template": b"x"})
        server.add_model("library/lora:latest", {"model": tiny, "adapter": b"x"})
        monkeypatch.setenv("SPINDLL_OLLAMA_REGISTRY", server.url)
        yield server


@pytest.fixture
def page() -> Iterator[str]:
    """The address of a page that links to the models, as the library's does."""
    with LoopbackServer() as server:
        server.files["/library"] = PAGE.encode()
        yield f"{server.url}/library"


def run(folder: Path, page: str, *arguments: str) -> int:
    return main(["--library-page", page, "--pause", "0", "--out", str(folder), *arguments])


@pytest.mark.usefixtures("registry")
def test_each_model_is_listed_with_its_prompt_format_and_whether_it_loads(
    tmp_path: Path, page: str
) -> None:
    assert run(tmp_path, page) == 0

    rows = [line.split(",") for line in (tmp_path / "survey.csv").read_text().splitlines()]
    assert [row[:4] for row in rows] == [
        ["model", "loads", "prompt format", "architecture"],
        ["jinja:latest", "yes", "jinja", "llama"],
        ["both:latest", "yes", "jinja + go", "llama"],
        ["renderer:latest", "yes", "renderer qwen3-coder", "llama"],
        ["newer:latest", "no", "go", "tomorrow"],
        ["lora:latest", "no", "none", ""],
        ["gone:latest", "no", "none", ""],
    ]
    assert "does not know the architecture" in rows[4][5]
    assert rows[6][5] == "the registry has no model 'gone:latest'"
    table = (tmp_path / "survey.md").read_text()
    assert table.startswith("6 models; loads: yes 3, perhaps 0, no 3\n")
    assert "| both:latest | yes | jinja + go | llama | 0.0 |" in table


@pytest.mark.usefixtures("registry")
def test_no_more_than_the_first_16_mib_of_the_weights_are_requested(
    tmp_path: Path, page: str, cdn: LoopbackServer, big: bytes
) -> None:
    run(tmp_path, page, "--limit", "3")

    ranges = {r.path: r.range for r in cdn.requests}
    assert ranges[f"/{sha256_digest(big)}"] == f"bytes=0-{MAX_HEADER_BYTES - 1}"
    tiny = TINY_GGUF.read_bytes()
    assert ranges[f"/{sha256_digest(tiny)}"] == f"bytes=0-{len(tiny) - 1}"
    assert len(cdn.requests) == 3 + 3  # the weights and the configuration of each model


def test_a_survey_that_was_cut_off_continues_where_it_was(
    tmp_path: Path, page: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.plan.faults = [Fault(path_part="renderer", status=503, times=ALWAYS)]
    assert run(tmp_path, page) == 1
    assert "5 models" in capsys.readouterr().out
    registry.plan.faults = []
    registry.requests.clear()

    assert run(tmp_path, page) == 0

    assert {path.split("/")[3] for path in registry.paths() if "/v2/" in path} == {"renderer"}
    registry.requests.clear()
    assert run(tmp_path, page) == 0
    assert registry.requests == []
    assert run(tmp_path, page, "--refresh") == 0
    assert registry.requests != []


def test_the_registry_sets_the_pause_before_the_next_try(
    tmp_path: Path, page: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tools.survey_ollama.time.sleep", waited.append)
    registry.plan.faults = [Fault(path_part="jinja", status=429, retry_after="7")]

    assert run(tmp_path, page, "--limit", "2", "--pause", "3") == 0

    assert waited == [7.0, 3.0]


@pytest.mark.usefixtures("registry")
def test_names_may_come_from_a_file(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("# ours\njinja\n\nno name\n")

    assert main(["--names", str(names), "--pause", "0", "--out", str(tmp_path)]) == 0

    rows = (tmp_path / "survey.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["model", "jinja:latest", "no name"]


def test_a_page_without_models_says_what_to_do(
    tmp_path: Path, registry: Registry, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, page.replace("/library", "/other")) == 1
    assert "no names of models: the library's page answered HTTP 404" in capsys.readouterr().err


def test_texts_of_strangers_are_neither_formulas_nor_cells(tmp_path: Path) -> None:
    write_tables(tmp_path, [Finding(name="m", loads="no", reason="=1|2\n3")])

    assert (tmp_path / "survey.csv").read_text().splitlines()[1].endswith("\"'=1|2")
    assert "| =1\\|2 3 |" in (tmp_path / "survey.md").read_text()
