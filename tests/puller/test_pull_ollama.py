"""Complete pulls from a registry with Ollama's protocol: queue, worker, HTTP, store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.shared.errors import ModelNotFound
from services.shared.pulls.job import JobState
from services.shared.store.manifest import FileRole
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed


def test_a_pulled_model_has_the_content_of_all_its_layers(
    testbed: PullTestbed, registry: Registry
) -> None:
    job = testbed.pull("tiny:f16")

    assert (job.state, job.error) == (JobState.DONE, None)
    assert job.downloaded_bytes == job.total_bytes
    manifest = testbed.store.resolve("tiny:f16")
    assert testbed.store.model_path(manifest).read_bytes() == TINY_GGUF.read_bytes()
    assert manifest.params == {"temperature": 0.5, "stop": ["<|im_end|>"]}
    assert manifest.system == "You are brief."
    assert manifest.messages == ({"role": "user", "content": "hi"},)
    assert manifest.license == "Apache-2.0"
    assert manifest.source == "127.0.0.1"
    assert testbed.leftover_files() == []


def _tiny_manifest(registry: Registry) -> bytes:
    return registry.manifests["/v2/library/tiny/manifests/f16"]


def test_the_manifest_of_the_registry_is_stored_byte_for_byte(
    testbed: PullTestbed, registry: Registry
) -> None:
    testbed.pull("tiny:f16")

    model = testbed.store.resolve("tiny:f16")
    (kept,) = [file for file in model.files if file.role is FileRole.REGISTRY_MANIFEST]
    assert testbed.store.file_path(kept).read_bytes() == _tiny_manifest(registry)
    assert (model.pulled_name, model.version) == ("tiny:f16", kept.digest)


def test_a_second_pull_downloads_no_blob_again(
    testbed: PullTestbed, registry: Registry, cdn: LoopbackServer
) -> None:
    testbed.pull("tiny:f16")
    cdn.requests.clear()

    assert testbed.pull("tiny:f16").state is JobState.DONE
    layers = {layer["digest"] for layer in json.loads(_tiny_manifest(registry))["layers"]}
    assert layers & {path.strip("/") for path in cdn.paths()} == set()


def test_a_flipped_byte_fails_the_job_and_lists_nothing(
    testbed: PullTestbed, cdn: LoopbackServer
) -> None:
    cdn.plan.faults = [
        Fault(path_part=sha256_digest(TINY_GGUF.read_bytes()), flip_at=5000, times=ALWAYS)
    ]

    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "digest_mismatch")
    assert "digest mismatch" in (job.error or "")
    assert testbed.store.list() == []
    assert testbed.leftover_files() == []


def test_a_blob_without_a_redirect_is_downloaded_from_the_registry(
    make_testbed: Callable[..., PullTestbed],
) -> None:
    with Registry() as plain:
        plain.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
        testbed = make_testbed(ollama_registry=plain.url)

        assert testbed.pull("tiny:latest").state is JobState.DONE


def test_an_unknown_model_is_reported(testbed: PullTestbed) -> None:
    job = testbed.pull("nothing:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "model_not_found")
    assert job.error == "the registry has no model 'nothing:latest'"


def test_a_name_with_a_host_is_pulled_from_that_host(
    make_testbed: Callable[..., PullTestbed], registry: Registry
) -> None:
    testbed = make_testbed(ollama_registry="http://127.0.0.1:1")
    name = f"127.0.0.1:{registry.port}/library/tiny:f16"

    assert testbed.pull(name).state is JobState.DONE
    assert testbed.store.resolve(name).name == name


class TestTokens:
    def test_a_token_opens_the_registry_and_is_sent_to_it_only(
        self, make_testbed: Callable[..., PullTestbed], cdn: LoopbackServer
    ) -> None:
        with Registry(cdn=cdn, token="t0ken") as private:
            private.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
            testbed = make_testbed(ollama_registry=private.url)

            assert testbed.pull("tiny:latest").state is JobState.DONE

        assert all("authorization" not in request.headers for request in cdn.requests)
        assert cdn.requests

    def test_a_realm_on_another_host_is_refused(
        self, make_testbed: Callable[..., PullTestbed], cdn: LoopbackServer
    ) -> None:
        with Registry(token="t0ken") as hostile:
            hostile.realm = f"{cdn.url}/v2/token"
            testbed = make_testbed(ollama_registry=hostile.url)

            job = testbed.pull("tiny:latest")

        assert job.state is JobState.FAILED
        assert "another host" in (job.error or "")
        assert cdn.requests == []

    def test_a_token_that_expires_during_the_pull_is_renewed(
        self, make_testbed: Callable[..., PullTestbed]
    ) -> None:
        with Registry(token="t0ken") as private:
            private.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
            model = sha256_digest(TINY_GGUF.read_bytes())
            private.plan.faults = [Fault(path_part=model, status=401, times=1)]
            testbed = make_testbed(ollama_registry=private.url)

            assert testbed.pull("tiny:latest").state is JobState.DONE
            assert sum("/v2/token" in path for path in private.paths()) == 2


def manifest_with(**changes: object) -> bytes:
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": "sha256:" + "0" * 64,
        "size": 10,
        **changes,
    }
    return json.dumps({"schemaVersion": 2, "layers": [layer]}).encode()


BAD_MANIFESTS = {
    "no JSON": (b"<html>", "not readable"),
    "no layers": (b'{"layers": []}', "0 layers"),
    "an index without variants": (
        b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}',
        "list of variants",
    ),
    "an index with a path": (
        b'{"mediaType": "x.index.v1+json", "manifests": [{"digest": "sha256:../../x"}]}',
        "malformed digest",
    ),
    "a digest with a path": (manifest_with(digest="sha256:../../etc/passwd"), "malformed digest"),
    "a negative size": (manifest_with(size=-1), "-1 bytes"),
    "a size of petabytes": (manifest_with(size=1 << 60), "bytes"),
    "an unknown layer": (
        manifest_with(mediaType="application/vnd.ollama.image.soul"),
        "unknown type",
    ),
    "a foreign layer": (manifest_with(mediaType="model"), "unknown type"),
    "single tensors": (
        manifest_with(mediaType="application/vnd.ollama.image.tensor"),
        "MLX repository",
    ),
    "no weights": (
        manifest_with(mediaType="application/vnd.ollama.image.license"),
        "has no weights",
    ),
    "megabytes of manifest": (b" " * (5 << 20), "more than"),
}


@pytest.mark.parametrize(("raw", "words"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
def test_a_bad_manifest_fails_the_job_with_a_message(
    testbed: PullTestbed, registry: Registry, tmp_path: Path, raw: bytes, words: str
) -> None:
    registry.add_manifest("library/bad:latest", raw)

    job = testbed.pull("bad:latest")

    assert job.state is JobState.FAILED
    assert words in (job.error or "")
    assert testbed.leftover_files() == []


def make_list(entries: list[dict[str, object]]) -> bytes:
    media_type = "application/vnd.docker.distribution.manifest.list.v2+json"
    return json.dumps({"mediaType": media_type, "manifests": entries}).encode()


VARIANTS = {
    "named by an annotation": {"annotations": {"runner": "llamacpp"}},
    "named by a tag": {"name": "listed:1b-llamacpp"},
    "without a name": {},
}


@pytest.mark.parametrize("label", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_variant_for_llama_cpp_is_pulled_from_a_list(
    testbed: PullTestbed, registry: Registry, label: dict[str, object]
) -> None:
    other = registry.add_model("library/other:x", {"tensor": b"for another runner"})
    ours = registry.add_model("library/ours:x", {"model": TINY_GGUF.read_bytes()})
    digests = [sha256_digest(raw) for raw in (other, ours)]
    for digest, raw in zip(digests, (other, ours), strict=True):
        registry.add_manifest(f"library/listed:{digest}", raw)
    entries: list[dict[str, object]] = [{"digest": digests[0]}, {"digest": digests[1], **label}]
    registry.add_manifest("library/listed:1b", make_list(entries))

    job = testbed.pull("listed:1b")

    assert (job.state, job.error) == (JobState.DONE, None)
    stored = testbed.store.resolve("listed:1b")
    assert testbed.store.model_path(stored).read_bytes() == TINY_GGUF.read_bytes()
    if label:
        assert not any(digests[0] in path for path in registry.paths())


def test_a_variant_without_the_digest_that_the_list_names_is_refused(
    testbed: PullTestbed, registry: Registry
) -> None:
    registry.add_model("library/listed:1b", {"model": TINY_GGUF.read_bytes()})
    raw = registry.manifests["/v2/library/listed/manifests/1b"]
    digest = f"sha256:{'1' * 64}"
    registry.add_manifest(f"library/listed:{digest}", raw)
    registry.add_manifest("library/listed:1b", make_list([{"digest": digest}]))

    assert "does not have the digest" in (testbed.pull("listed:1b").error or "")


@pytest.mark.parametrize("other", ["library/gpt-oss:20b-llamacpp", "dhiltgen/gpt-oss:20b"])
def test_a_model_made_for_ollamas_engine_is_replaced_by_its_republished_files(
    testbed: PullTestbed, registry: Registry, other: str
) -> None:
    registry.add_model("library/gpt-oss:20b", {"model": b"made for Ollama's engine"})
    registry.add_model(other, {"model": TINY_GGUF.read_bytes()})

    job = testbed.pull("gpt-oss:20b")

    assert (job.state, job.error) == (JobState.DONE, None)
    assert testbed.store.resolve("gpt-oss:20b").name == "gpt-oss:20b"
    is_elsewhere = other.startswith("dhiltgen/")
    assert ("the files are those of dhiltgen/gpt-oss" in " ".join(job.warnings)) == is_elsewhere


def test_without_republished_files_the_model_itself_is_pulled(
    testbed: PullTestbed, registry: Registry
) -> None:
    registry.add_model("library/gpt-oss:20b", {"model": TINY_GGUF.read_bytes()})

    assert testbed.pull("gpt-oss:20b").state is JobState.DONE


def test_a_model_of_a_remote_service_is_refused(testbed: PullTestbed, registry: Registry) -> None:
    registry.add_model("library/cloud:latest", {"model": b"x"}, config={"remote_host": "a.b"})

    assert "no weights to pull" in (testbed.pull("cloud:latest").error or "")


def test_an_invalid_model_file_is_not_listed(testbed: PullTestbed, registry: Registry) -> None:
    registry.add_model("library/text:latest", {"model": b"once upon a time " * 100})

    job = testbed.pull("text:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "invalid_model_file")
    with pytest.raises(ModelNotFound):
        testbed.store.resolve("text:latest")


def test_a_source_that_is_not_allowed_receives_no_request(
    make_testbed: Callable[..., PullTestbed], registry: Registry
) -> None:
    testbed = make_testbed(ollama_registry=registry.url, allowed_sources="hf.co, example.com")

    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "permission_denied")
    assert registry.requests == []


@pytest.mark.parametrize("allowed", ["registry.ollama.ai", "Ollama.com"])
def test_a_source_is_allowed_by_any_of_its_names(
    make_testbed: Callable[..., PullTestbed], registry: Registry, allowed: str
) -> None:
    testbed = make_testbed(ollama_registry=registry.url, allowed_sources=allowed)

    assert testbed.pull("tiny:f16").state is JobState.DONE


def test_names_that_differ_in_case_are_one_job(testbed: PullTestbed) -> None:
    first = testbed.submit("Owner/Repo:latest")
    assert testbed.submit("owner/repo:latest") == first
    assert testbed.job_store.find_loading_job("OWNER/repo:latest") == first
    assert testbed.job_store.find(model="owner/REPO:latest") == [first]
    addresses = ["https://h/a.gguf", "https://h/A.gguf"]
    assert len({testbed.submit(name).id for name in addresses}) == 2


def test_too_little_disk_space_fails_before_the_download(
    make_testbed: Callable[..., PullTestbed], registry: Registry, cdn: LoopbackServer
) -> None:
    testbed = make_testbed(ollama_registry=registry.url, pull_reserve_bytes=1 << 60)

    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "disk_full")
    assert "stay reserved" in (job.error or "")
    assert f"/{sha256_digest(TINY_GGUF.read_bytes())}" not in cdn.paths()
