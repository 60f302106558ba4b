"""Models that the engine cannot load are refused in words, and before they are downloaded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.puller.download.partial_file import PartialFile, ResumeState, boot_id
from services.puller.formats import engine_support
from services.shared.pulls.job import JobState
from services.shared.store.manifest import FileRole
from tests.conftest import ROOT, TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.formats.gguf.writer import TENSORS, TensorSpec, write_gguf

BIG = [*TENSORS, TensorSpec("blk.0.ffn_up.weight", (1024, 3072))]  # 12 MiB of weights
UNLOADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a new architecture": ({"general.architecture": "tomorrow"}, "does not know the architecture"),
    "Ollama's own": ({"general.architecture": "gptoss"}, "not gpt-oss"),
    "a projector": ({"general.architecture": "clip"}, "not a model by itself"),
    "no context": ({"llama.context_length": None}, "no context_length"),
}


@pytest.mark.parametrize(("changes", "words"), UNLOADABLE.values(), ids=UNLOADABLE.keys())
def test_an_unloadable_model_is_refused_after_its_first_bytes(
    testbed: PullTestbed,
    registry: Registry,
    cdn: LoopbackServer,
    changes: dict[str, Any],
    words: str,
) -> None:
    data = write_gguf(changes, tensors=BIG)
    registry.add_model("library/big:latest", {"model": data})
    # Nothing arrives behind the first two MiB: only the header can end this job.
    cdn.plan.faults = [Fault(path_part=sha256_digest(data), stall_at=2 << 20, times=ALWAYS)]

    job = testbed.pull("big:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "invalid_model_file")
    assert words in (job.error or "")
    assert testbed.leftover_files() == []
    assert cdn.sent_bytes < 3 << 20


def test_a_resumed_file_with_a_wrong_header_is_downloaded_once_more(
    testbed: PullTestbed, registry: Registry
) -> None:
    data = write_gguf(tensors=BIG)
    registry.add_model("library/big:latest", {"model": data})
    partial = PartialFile.lock(testbed.store.blobs.partial_path(sha256_digest(data)))
    assert partial is not None
    partial.write(bytes(1 << 20), 0)
    partial.write_resume_state(
        ResumeState(
            size_bytes=len(data),
            piece_bytes=16 << 20,
            etag=None,
            boot=boot_id(),
            done=(1 << 20,),
            synced=(),
        )
    )
    partial.close()

    job = testbed.pull("big:latest")

    assert (job.state, job.error) == (JobState.DONE, None)


def test_a_model_with_an_adapter_is_refused(testbed: PullTestbed, registry: Registry) -> None:
    registry.add_model(
        "library/tuned:latest", {"model": TINY_GGUF.read_bytes(), "adapter": b"lora"}
    )

    job = testbed.pull("tuned:latest")

    assert (job.state, job.error) == (JobState.FAILED, engine_support.NO_ADAPTERS)


def test_parts_that_nothing_reads_are_not_downloaded(
    testbed: PullTestbed, registry: Registry, cdn: LoopbackServer
) -> None:
    layers = {"model": TINY_GGUF.read_bytes(), "projector": b"p" * 100, "draft": b"d" * 100}
    registry.add_model("library/seeing:latest", layers)

    job = testbed.pull("seeing:latest")

    assert (job.state, job.warnings[0]) == (JobState.DONE, engine_support.TEXT_ONLY)
    assert {f.role for f in testbed.store.resolve("seeing").files} == {
        FileRole.MODEL,
        FileRole.CONFIG,
        FileRole.REGISTRY_MANIFEST,
    }


def test_a_repository_of_safetensors_names_the_ggufs_made_from_it(
    testbed: PullTestbed, hub: Hub, cdn: LoopbackServer
) -> None:
    folder = ROOT / "tests" / "models" / "tiny" / "mlx-f16"
    hub.add("Owner/Model-8B", {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
    tags = ("gguf", "base_model:quantized:Owner/Model-8B")
    hub.add("friend/Model-8B-GGUF", {"m-Q4_K_M.gguf": b"x"}, downloads=5, tags=tags)
    hub.add("big/Model-8B-GGUF", {"m-Q4_K_M.gguf": b"x"}, downloads=9, tags=tags)

    job = testbed.pull("Owner/Model-8B:latest")

    assert job.state is JobState.FAILED
    assert (job.error or "").endswith(
        "can be pulled instead: big/Model-8B-GGUF, friend/Model-8B-GGUF"
    )
    assert cdn.requests == []


@pytest.mark.usefixtures("mlx_engine")
def test_a_repository_without_a_part_that_its_index_names_is_refused_before_the_download(
    testbed: PullTestbed, hub: Hub, cdn: LoopbackServer
) -> None:
    folder = ROOT / "tests" / "models" / "tiny" / "mlx-f16"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    names = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()
    hub.add("owner/half", files)

    job = testbed.pull("owner/half:latest")

    assert job.state is JobState.FAILED
    assert job.error == (
        "the repository is incomplete: its index names 2 files of weights, and"
        " model-00002-of-00002.safetensors is not there"
    )
    assert cdn.requests == []


@pytest.mark.usefixtures("mlx_engine")
def test_an_index_that_is_not_readable_is_refused(testbed: PullTestbed, hub: Hub) -> None:
    files = {"config.json": b"{}", "m.safetensors": b"x", "model.safetensors.index.json": b"[]"}
    hub.add("owner/half", files)

    job = testbed.pull("owner/half:latest")

    assert job.error == "the repository's model.safetensors.index.json is not readable"


def test_one_part_of_a_split_model_is_refused_after_its_first_bytes(
    testbed: PullTestbed, hub: Hub, cdn: LoopbackServer
) -> None:
    # Its name does not tell that there were three.
    data = write_gguf({"split.count": 3, "split.no": 0}, tensors=BIG)
    hub.add("owner/renamed", {"m-Q4_0.gguf": data})
    cdn.plan.faults = [Fault(path_part="m-Q4_0", stall_at=2 << 20, times=ALWAYS)]

    job = testbed.pull("owner/renamed:Q4_0")

    assert (job.state, job.error) == (
        JobState.FAILED,
        "the model has 3 parts, but 1 is present",
    )
    assert cdn.sent_bytes < 3 << 20


@pytest.fixture
def only_mlx(mlx_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Mac without a compiler: MLX is installed, and llama-cpp-python is not."""
    monkeypatch.setattr(engine_support, "LOADS_GGUF", False)


@pytest.mark.usefixtures("only_mlx")
def test_without_llama_cpp_a_name_of_the_library_is_refused_before_its_download(
    testbed: PullTestbed, registry: Registry, cdn: LoopbackServer
) -> None:
    registry.add_model("library/qwen3:0.6b", {"model": TINY_GGUF.read_bytes()})

    job = testbed.pull("qwen3:0.6b")

    assert (job.state, job.error_code) == (JobState.FAILED, "pull_failed")
    assert job.error == (
        "the model is a GGUF file, and there is no engine for those here: llama-cpp-python is not"
        " installed; an MLX model can be pulled instead (`spindll search qwen3 --format mlx`)"
    )
    assert cdn.sent_bytes < 1024  # the configuration, and no weights
    assert testbed.leftover_files() == []


@pytest.mark.usefixtures("only_mlx")
def test_without_llama_cpp_a_repository_of_gguf_files_is_refused_before_its_download(
    testbed: PullTestbed, hub: Hub
) -> None:
    hub.add("owner/qwen3-GGUF", {"qwen3-Q4_K_M.gguf": TINY_GGUF.read_bytes()}, tags=("gguf",))

    job = testbed.pull("owner/qwen3-GGUF")

    assert "llama-cpp-python is not installed" in (job.error or "")
    assert testbed.leftover_files() == []
