"""Pulls from a registry of Ollama's protocol, whole: queue, worker, HTTP, store."""

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
from tests.fakes.registries.oci import Registry, digest_of
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import Desk


def test_a_pulled_model_has_everything_its_layers_say(desk: Desk, registry: Registry) -> None:
    job = desk.pull("tiny:f16")

    assert (job.state, job.error) == (JobState.DONE, None)
    assert job.downloaded_bytes == job.total_bytes
    manifest = desk.store.resolve("tiny:f16")
    assert desk.store.model_path(manifest).read_bytes() == TINY_GGUF.read_bytes()
    assert manifest.params == {"temperature": 0.5, "stop": ["<|im_end|>"]}
    assert manifest.system == "You are brief."
    assert manifest.messages == ({"role": "user", "content": "hi"},)
    assert manifest.license == "Apache-2.0"
    assert manifest.source == "127.0.0.1"
    assert desk.leftovers() == []


def _manifest_of(registry: Registry) -> bytes:
    return registry.manifests["/v2/library/tiny/manifests/f16"]


def test_the_registrys_manifest_is_kept_byte_for_byte(desk: Desk, registry: Registry) -> None:
    desk.pull("tiny:f16")

    (kept,) = [
        file
        for file in desk.store.resolve("tiny:f16").files
        if file.role is FileRole.REGISTRY_MANIFEST
    ]
    assert desk.store.file_path(kept).read_bytes() == _manifest_of(registry)


def test_a_second_pull_fetches_no_blob_again(
    desk: Desk, registry: Registry, cdn: LoopbackServer
) -> None:
    desk.pull("tiny:f16")
    cdn.seen.clear()

    assert desk.pull("tiny:f16").state is JobState.DONE
    layers = {layer["digest"] for layer in json.loads(_manifest_of(registry))["layers"]}
    assert layers & {path.strip("/") for path in cdn.paths()} == set()


def test_a_flipped_byte_fails_the_job_and_lists_nothing(desk: Desk, cdn: LoopbackServer) -> None:
    cdn.plan.faults = [Fault(on=digest_of(TINY_GGUF.read_bytes()), flip_at=5000, times=ALWAYS)]

    job = desk.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "digest_mismatch")
    assert "digest mismatch" in (job.error or "")
    assert desk.store.list() == []
    assert desk.leftovers() == []


def test_a_blob_without_redirect_is_taken_from_the_registry(make_desk: Callable[..., Desk]) -> None:
    with Registry() as plain:
        plain.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
        desk = make_desk(ollama_registry=plain.url)

        assert desk.pull("tiny:latest").state is JobState.DONE


def test_an_unknown_model_says_so(desk: Desk) -> None:
    job = desk.pull("nothing:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "model_not_found")
    assert job.error == "the registry has no model 'nothing:latest'"


def test_a_registry_of_its_own_is_asked_by_its_host(
    make_desk: Callable[..., Desk], registry: Registry
) -> None:
    desk = make_desk(ollama_registry="http://127.0.0.1:1")
    name = f"127.0.0.1:{registry.port}/library/tiny:f16"

    assert desk.pull(name).state is JobState.DONE
    assert desk.store.resolve(name).name == name


class TestTokens:
    def test_a_token_opens_the_registry_and_stays_with_it(
        self, make_desk: Callable[..., Desk], cdn: LoopbackServer
    ) -> None:
        with Registry(cdn=cdn, token="t0ken") as private:
            private.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
            desk = make_desk(ollama_registry=private.url)

            assert desk.pull("tiny:latest").state is JobState.DONE

        assert all("authorization" not in seen.headers for seen in cdn.seen)
        assert cdn.seen

    def test_a_realm_elsewhere_is_refused(
        self, make_desk: Callable[..., Desk], cdn: LoopbackServer
    ) -> None:
        with Registry(token="t0ken") as hostile:
            hostile.realm = f"{cdn.url}/v2/token"
            desk = make_desk(ollama_registry=hostile.url)

            job = desk.pull("tiny:latest")

        assert job.state is JobState.FAILED
        assert "another host" in (job.error or "")
        assert cdn.seen == []

    def test_a_token_that_expires_during_the_pull_is_renewed(
        self, make_desk: Callable[..., Desk]
    ) -> None:
        with Registry(token="t0ken") as private:
            private.add_model("library/tiny:latest", {"model": TINY_GGUF.read_bytes()})
            model = digest_of(TINY_GGUF.read_bytes())
            private.plan.faults = [Fault(on=model, status=401, times=1)]
            desk = make_desk(ollama_registry=private.url)

            assert desk.pull("tiny:latest").state is JobState.DONE
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
    "an index": (
        b'{"mediaType": "application/vnd.oci.image.index.v1+json", "layers": []}',
        "list of variants",
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
        "names no weights",
    ),
    "megabytes of manifest": (b" " * (5 << 20), "more than"),
}


@pytest.mark.parametrize(("raw", "words"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
def test_a_bad_manifest_fails_the_job_in_a_sentence(
    desk: Desk, registry: Registry, tmp_path: Path, raw: bytes, words: str
) -> None:
    registry.add_manifest("library/bad:latest", raw)

    job = desk.pull("bad:latest")

    assert job.state is JobState.FAILED
    assert words in (job.error or "")
    assert desk.leftovers() == []


def test_a_model_that_runs_elsewhere_is_refused(desk: Desk, registry: Registry) -> None:
    registry.add_model("library/cloud:latest", {"model": b"x"}, config={"remote_host": "a.b"})

    assert "no weights to pull" in (desk.pull("cloud:latest").error or "")


def test_what_is_no_model_is_not_listed(desk: Desk, registry: Registry) -> None:
    registry.add_model("library/text:latest", {"model": b"once upon a time " * 100})

    job = desk.pull("text:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "invalid_model_file")
    with pytest.raises(ModelNotFound):
        desk.store.resolve("text:latest")


def test_a_source_that_is_not_allowed_is_not_asked(
    make_desk: Callable[..., Desk], registry: Registry
) -> None:
    desk = make_desk(ollama_registry=registry.url, allowed_sources="hf.co, example.com")

    job = desk.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "permission_denied")
    assert registry.seen == []


def test_no_room_fails_before_a_byte_is_fetched(
    make_desk: Callable[..., Desk], registry: Registry, cdn: LoopbackServer
) -> None:
    desk = make_desk(ollama_registry=registry.url, pull_reserve_bytes=1 << 60)

    job = desk.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "disk_full")
    assert "stay reserved" in (job.error or "")
    assert f"/{digest_of(TINY_GGUF.read_bytes())}" not in cdn.paths()
