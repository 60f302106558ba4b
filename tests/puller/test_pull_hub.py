"""Pulls from a hub, through huggingface_hub itself, and plain downloads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from services.shared.pulls.job import JobState
from services.shared.store.manifest import FileRole
from tests.conftest import ROOT, TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import Desk

TINY_Q8 = ROOT / "tests" / "models" / "tiny" / "tiny-q8_0.gguf"
TINY_MLX = ROOT / "tests" / "models" / "tiny" / "mlx-f16"


@pytest.fixture
def tiny_hub(hub: Hub) -> Hub:
    hub.add(
        "owner/tiny-GGUF",
        {
            "README.md": b"# tiny",
            "tiny-f16.gguf": TINY_GGUF.read_bytes(),
            "tiny-Q8_0.gguf": TINY_Q8.read_bytes(),
            "imatrix.gguf": b"numbers",
            "system": b"You are brief.",
        },
    )
    return hub


def test_a_repository_gives_its_best_quantisation(
    desk: Desk, tiny_hub: Hub, cdn: LoopbackServer
) -> None:
    job = desk.pull("owner/tiny-GGUF:latest")

    assert (job.state, job.error) == (JobState.DONE, None)
    manifest = desk.store.resolve("owner/tiny-GGUF")
    assert desk.store.model_path(manifest).read_bytes() == TINY_Q8.read_bytes()
    assert manifest.system == "You are brief."
    assert manifest.source == "Hugging Face mirror"
    assert {path.rpartition("/")[2] for path in cdn.paths()} == {"tiny-Q8_0.gguf"}


@pytest.mark.parametrize(
    "name", ["owner/tiny-GGUF:F16", "hf.co/owner/tiny-GGUF:f16", "owner/tiny-GGUF/tiny-f16.gguf"]
)
def test_a_quantisation_or_a_file_is_had_by_name(desk: Desk, tiny_hub: Hub, name: str) -> None:
    job = desk.pull(name)

    assert (job.state, job.error) == (JobState.DONE, None)
    manifest = desk.store.resolve(name)
    assert desk.store.model_path(manifest).read_bytes() == TINY_GGUF.read_bytes()


def test_an_mlx_repository_becomes_a_folder(desk: Desk, hub: Hub) -> None:
    files = {path.name: path.read_bytes() for path in TINY_MLX.iterdir() if path.is_file()}
    hub.add("owner/tiny-mlx", {**files, "modeling.py": b"import os"})

    job = desk.pull("owner/tiny-mlx:latest")

    assert (job.state, job.error) == (JobState.DONE, None)
    folder = desk.store.model_path(desk.store.resolve("owner/tiny-mlx"))
    weights = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    assert [path.read_bytes() for path in weights] == [files[path.name] for path in weights]
    assert not (folder / "modeling.py").exists()


def test_a_gated_repository_says_what_to_do(desk: Desk, hub: Hub) -> None:
    hub.add("owner/gated", {"m.gguf": TINY_GGUF.read_bytes()}, gated=True)

    job = desk.pull("owner/gated:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "pull_failed")
    assert "gated: accept its terms" in (job.error or "")


def test_the_token_opens_a_gated_repository_and_stays_with_the_hub(
    make_desk: Callable[..., Desk], hub: Hub, cdn: LoopbackServer
) -> None:
    hub.add("owner/gated", {"m.gguf": TINY_GGUF.read_bytes()}, gated=True)
    desk = make_desk(hf_endpoint=hub.url, hf_token="hf_right")

    assert desk.pull("owner/gated:latest").state is JobState.DONE
    assert cdn.seen
    assert all("authorization" not in seen.headers for seen in cdn.seen)


@pytest.mark.parametrize("name", ["owner/missing:latest", "owner/private:latest"])
def test_what_the_hub_does_not_show_is_not_found(desk: Desk, hub: Hub, name: str) -> None:
    hub.add("owner/private", {"m.gguf": b""}, private=True)

    job = desk.pull(name)

    assert (job.state, job.error_code) == (JobState.FAILED, "model_not_found")
    assert "SPINDLL_HF_TOKEN" in (job.error or "")


def test_a_hub_that_stumbles_is_asked_again(desk: Desk, tiny_hub: Hub) -> None:
    tiny_hub.plan.faults = [Fault(on="/api/models", status=503, times=1)]

    assert desk.pull("owner/tiny-GGUF:latest").state is JobState.DONE


def test_a_flipped_byte_of_a_small_file_is_noticed_by_its_git_hash(
    desk: Desk, tiny_hub: Hub
) -> None:
    tiny_hub.plan.faults = [Fault(on="/system", flip_at=3, times=ALWAYS)]

    job = desk.pull("owner/tiny-GGUF:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "digest_mismatch")


class TestPlainDownload:
    def test_a_file_with_its_sha256_is_verified(self, desk: Desk, cdn: LoopbackServer) -> None:
        data = TINY_GGUF.read_bytes()
        cdn.files["/models/tiny.gguf"] = data
        name = f"{cdn.url}/models/tiny.gguf"

        job = desk.pull(name, sha256=hashlib.sha256(data).hexdigest())

        assert (job.state, job.error) == (JobState.DONE, None)
        assert desk.store.resolve(name).description.warnings == ()
        assert desk.leftovers() == []

    def test_a_wrong_sha256_fails(self, desk: Desk, cdn: LoopbackServer) -> None:
        cdn.files["/tiny.gguf"] = TINY_GGUF.read_bytes()

        job = desk.pull(f"{cdn.url}/tiny.gguf", sha256="0" * 64)

        assert (job.state, job.error_code) == (JobState.FAILED, "digest_mismatch")
        assert desk.leftovers() == []

    def test_without_a_sha256_the_model_says_it_was_not_verified(
        self, desk: Desk, cdn: LoopbackServer
    ) -> None:
        cdn.files["/tiny.gguf"] = TINY_GGUF.read_bytes()
        name = f"{cdn.url}/tiny.gguf"

        assert desk.pull(name).state is JobState.DONE
        manifest = desk.store.resolve(name)
        assert "no sha256 was given, so the file was not verified" in (
            manifest.description.warnings
        )
        assert all(file.role is FileRole.MODEL for file in manifest.files)
        assert desk.leftovers() == []

    def test_plain_http_elsewhere_is_refused(self, desk: Desk) -> None:
        job = desk.pull("http://models.example/tiny.gguf")

        assert (job.state, job.error) == (JobState.FAILED, "a plain download must be https://")
