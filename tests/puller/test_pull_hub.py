"""Pulls from a hub, with the real huggingface_hub, and plain downloads."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import pytest

from services.shared.model_name import ModelName
from services.shared.pulls.job import JobState
from services.shared.store.manifest import FileRole
from tests.conftest import ROOT, TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.hub import COMMIT, Hub
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.formats.gguf.writer import write_gguf

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


def test_the_best_quantisation_of_a_repository_is_pulled(
    testbed: PullTestbed, tiny_hub: Hub, cdn: LoopbackServer
) -> None:
    job = testbed.pull("owner/tiny-GGUF:latest")

    assert (job.state, job.error) == (JobState.DONE, None)
    manifest = testbed.store.resolve("owner/tiny-GGUF")
    assert testbed.store.model_path(manifest).read_bytes() == TINY_Q8.read_bytes()
    assert manifest.system == "You are brief."
    assert manifest.source == "Hugging Face mirror"
    assert {path.rpartition("/")[2] for path in cdn.paths()} == {"tiny-Q8_0.gguf"}


@pytest.mark.parametrize(
    "name", ["owner/tiny-GGUF:F16", "hf.co/owner/tiny-GGUF:f16", "owner/tiny-GGUF/tiny-f16.gguf"]
)
def test_a_quantisation_or_a_file_can_be_pulled_by_name(
    testbed: PullTestbed, tiny_hub: Hub, name: str
) -> None:
    job = testbed.pull(name)

    assert (job.state, job.error) == (JobState.DONE, None)
    manifest = testbed.store.resolve(name)
    assert testbed.store.model_path(manifest).read_bytes() == TINY_GGUF.read_bytes()


@pytest.mark.usefixtures("mlx_engine")
def test_an_mlx_repository_is_stored_as_a_folder(testbed: PullTestbed, hub: Hub) -> None:
    files = {path.name: path.read_bytes() for path in TINY_MLX.iterdir() if path.is_file()}
    hub.add("owner/tiny-mlx", {**files, "modeling.py": b"import os"})

    job = testbed.pull("owner/tiny-mlx:latest")

    assert (job.state, job.error) == (JobState.DONE, None)
    folder = testbed.store.model_path(testbed.store.resolve("owner/tiny-mlx"))
    weights = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    assert [path.read_bytes() for path in weights] == [files[path.name] for path in weights]
    assert not (folder / "modeling.py").exists()


@pytest.mark.parametrize("token", [None, "hf_wrong"], ids=["no token", "a token without access"])
def test_a_gated_repository_that_is_listed_to_everybody_says_what_to_do(
    make_testbed: Callable[..., PullTestbed], hub: Hub, token: str | None
) -> None:
    hub.add("owner/gated", {"m.gguf": TINY_GGUF.read_bytes()}, gated=True)

    job = make_testbed(hf_endpoint=hub.url, hf_token=token).pull("owner/gated:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "pull_failed")
    assert "gated: accept its terms" in (job.error or "")


def test_a_file_that_the_hub_does_not_serve_says_how_to_get_it(
    testbed: PullTestbed, tiny_hub: Hub
) -> None:
    tiny_hub.plan.faults = [Fault(path_part="tiny-Q8_0.gguf", status=400, times=ALWAYS)]

    job = testbed.pull("owner/tiny-GGUF:Q8_0")

    assert job.state is JobState.FAILED
    assert "spindll import --hf" in (job.error or "")


def test_the_quota_of_the_hub_sets_the_next_attempt(testbed: PullTestbed, tiny_hub: Hub) -> None:
    tiny_hub.plan.faults = [
        Fault(path_part="/api", status=429, rate_limit='"api";r=0;t=0', times=2),
        Fault(path_part="/api", status=429, rate_limit='"api";r=0;t=1', times=1),
    ]

    assert testbed.pull("owner/tiny-GGUF:Q8_0").state is JobState.DONE


def test_the_token_opens_a_gated_repository_and_is_sent_to_the_hub_only(
    make_testbed: Callable[..., PullTestbed], hub: Hub, cdn: LoopbackServer
) -> None:
    hub.add("owner/gated", {"m.gguf": TINY_GGUF.read_bytes()}, gated=True)
    testbed = make_testbed(hf_endpoint=hub.url, hf_token="hf_right")

    assert testbed.pull("owner/gated:latest").state is JobState.DONE
    assert cdn.requests
    assert all("authorization" not in request.headers for request in cdn.requests)


@pytest.mark.parametrize("name", ["owner/missing:latest", "owner/private:latest"])
def test_a_missing_or_hidden_repository_is_not_found(
    testbed: PullTestbed, hub: Hub, name: str
) -> None:
    hub.add("owner/private", {"m.gguf": b""}, private=True)

    job = testbed.pull(name)

    assert (job.state, job.error_code) == (JobState.FAILED, "model_not_found")
    assert "SPINDLL_HF_TOKEN" in (job.error or "")


def test_a_failing_hub_is_retried(testbed: PullTestbed, tiny_hub: Hub) -> None:
    tiny_hub.plan.faults = [Fault(path_part="/api/models", status=503, times=1)]

    assert testbed.pull("owner/tiny-GGUF:latest").state is JobState.DONE


def test_the_git_hash_of_a_small_file_detects_a_flipped_byte(
    testbed: PullTestbed, tiny_hub: Hub
) -> None:
    tiny_hub.plan.faults = [Fault(path_part="/system", flip_at=3, times=ALWAYS)]

    job = testbed.pull("owner/tiny-GGUF:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "digest_mismatch")


def test_a_model_behind_thousands_of_other_files_is_found(testbed: PullTestbed, hub: Hub) -> None:
    others = {f"checkpoints/{n:05d}.txt": b"" for n in range(6000)}
    hub.add("owner/many", {**others, "z-Q8_0.gguf": TINY_Q8.read_bytes()})

    assert testbed.pull("owner/many:latest").state is JobState.DONE


class TestPlainDownload:
    def test_a_file_with_its_sha256_is_verified(
        self, testbed: PullTestbed, cdn: LoopbackServer
    ) -> None:
        data = TINY_GGUF.read_bytes()
        cdn.files["/models/tiny.gguf"] = data
        name = f"{cdn.url}/models/tiny.gguf"

        job = testbed.pull(name, sha256=hashlib.sha256(data).hexdigest())

        assert (job.state, job.error) == (JobState.DONE, None)
        assert testbed.store.resolve(name).description.warnings == ()
        assert testbed.leftover_files() == []

    def test_a_wrong_sha256_fails(self, testbed: PullTestbed, cdn: LoopbackServer) -> None:
        cdn.files["/tiny.gguf"] = TINY_GGUF.read_bytes()

        job = testbed.pull(f"{cdn.url}/tiny.gguf", sha256="0" * 64)

        assert (job.state, job.error_code) == (JobState.FAILED, "digest_mismatch")
        assert testbed.leftover_files() == []

    def test_without_a_sha256_the_model_has_a_warning(
        self, testbed: PullTestbed, cdn: LoopbackServer
    ) -> None:
        cdn.files["/tiny.gguf"] = TINY_GGUF.read_bytes()
        name = f"{cdn.url}/tiny.gguf"

        assert testbed.pull(name).state is JobState.DONE
        manifest = testbed.store.resolve(name)
        assert "no sha256 was given, so the file was not verified" in (
            manifest.description.warnings
        )
        assert all(file.role is FileRole.MODEL for file in manifest.files)
        assert testbed.leftover_files() == []

    def test_plain_http_to_another_host_is_refused(self, testbed: PullTestbed) -> None:
        job = testbed.pull("http://models.example/tiny.gguf")

        assert (job.state, job.error) == (JobState.FAILED, "a plain download must be https://")

    def test_the_query_of_an_address_is_used_and_appears_nowhere(
        self,
        testbed: PullTestbed,
        cdn: LoopbackServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cdn.files["/tiny.gguf"] = TINY_GGUF.read_bytes()
        address = f"{cdn.url}/tiny.gguf?signature=SECRET"
        name = str(ModelName.parse(address))

        with caplog.at_level(logging.DEBUG):
            job = testbed.pull(name, address=address)

        assert (job.state, job.error) == (JobState.DONE, None)
        assert set(cdn.paths()) == {"/tiny.gguf?signature=SECRET"}
        assert "SECRET" not in repr(job)  # a job that is done needs its address no more
        assert "SECRET" not in caplog.text
        assert [manifest.name for manifest in testbed.store.list()] == [name]
        stored = [path.read_bytes() for path in testbed.store.layout.root.rglob("*.json")]
        assert stored
        assert not any(b"SECRET" in text for text in stored)


@pytest.mark.usefixtures("mlx_engine")
def test_a_width_in_bits_never_selects_weights_of_another_width(
    testbed: PullTestbed, hub: Hub
) -> None:
    files = {path.name: path.read_bytes() for path in TINY_MLX.iterdir()}
    hub.add("owner/tiny-8bit", files)
    other = testbed.pull("owner/tiny-8bit:4bit")
    same = testbed.pull("owner/tiny-8bit:8bit")

    assert other.state is JobState.FAILED
    assert other.error is not None
    assert other.error.startswith("a repository has MLX weights of one width, and tiny-8bit does")
    assert (same.state, same.error) == (JobState.DONE, None)


def test_a_template_that_never_ends_ends_the_job(testbed: PullTestbed, hub: Hub) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    hub.add("owner/evil", {"evil-Q8_0.gguf": write_gguf({"tokenizer.chat_template": endless})})

    job = testbed.pull("owner/evil:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "invalid_model_file")
    assert job.error == "the model's chat template takes more than 2 s of processor time"


OLD_COMMIT = "f" * 40


@pytest.mark.parametrize("revision", ["v1", OLD_COMMIT], ids=["tag", "commit"])
def test_a_revision_is_pulled_beside_the_newest_files(
    testbed: PullTestbed, tiny_hub: Hub, revision: str
) -> None:
    old = {"old-Q8_0.gguf": TINY_GGUF.read_bytes()}
    tiny_hub.add("owner/tiny-GGUF@v1", old, commit=OLD_COMMIT)

    newest = testbed.pull("owner/tiny-GGUF:Q8_0")
    pinned = testbed.pull(f"owner/tiny-GGUF@{revision}:Q8_0")

    assert (newest.error, pinned.error) == (None, None)
    manifest = testbed.store.resolve(pinned.model)
    assert manifest.name == manifest.pulled_name == f"owner/tiny-GGUF@{revision}:Q8_0"
    assert (manifest.version, manifest.files[0].path) == (OLD_COMMIT, "old-Q8_0.gguf")
    assert testbed.store.resolve("owner/tiny-GGUF:Q8_0").version == COMMIT


def test_a_revision_that_does_not_exist_is_not_found(testbed: PullTestbed, tiny_hub: Hub) -> None:
    job = testbed.pull("owner/tiny-GGUF@v9:Q8_0")

    assert job.error_code == "model_not_found"
    assert job.error == "the repository 'owner/tiny-GGUF' has no branch, tag or commit 'v9'"
