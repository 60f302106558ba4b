"""Sources that lie: a job ends with a sentence about it, or waits, and the store stays whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest

from services.puller import build, job_control
from services.puller.download.retry import RetryPolicy
from services.shared.pulls.job import JobState
from tests.conftest import TINY_GGUF
from tests.fakes.registries.hub import Hub
from tests.fakes.registries.oci import Registry
from tests.fakes.registries.server import Handler, LoopbackServer
from tests.puller.conftest import PullTestbed

TINY = TINY_GGUF.read_bytes()
PAGE = b"<html>Please accept our terms.</html>"


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "RetryPolicy", partial(RetryPolicy, backoff_seconds=0.001))


def nest(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"layers":[],"x":' + nest(100_000) + b"}",
        b'{"manifests":[' + nest(100_000) + b"]}",
        b'{"manifests":[{"digest":7}]}',
    ],
    ids=["manifest", "list of variants", "number as a digest"],
)
def test_a_manifest_that_no_decoder_can_read_is_refused(
    testbed: PullTestbed, registry: Registry, manifest: bytes
) -> None:
    registry.add_manifest("library/deep:latest", manifest)

    job = testbed.pull("deep:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "pull_failed")
    assert "is not readable" in (job.error or "")


@pytest.mark.parametrize("levels", [40, 900, 100_000])
def test_parameters_that_are_nested_too_deeply_are_refused(
    testbed: PullTestbed, registry: Registry, levels: int
) -> None:
    registry.add_model("library/deep:latest", {"model": TINY, "params": nest(levels)})

    job = testbed.pull("deep:latest")

    assert (job.state, job.error_code) == (JobState.FAILED, "invalid_model_file")
    assert testbed.store.list() == []


def test_a_login_page_instead_of_a_manifest_is_waited_out(
    testbed: PullTestbed, registry: Registry
) -> None:
    registry.handler = lambda request, path: request.reply(200, PAGE, {"Content-Type": "text/html"})
    registry.answer = partial(LoopbackServer.answer, registry)  # type: ignore[method-assign]

    job = testbed.pull("tiny:f16")

    assert job.state is JobState.QUEUED
    assert "the network may ask for a login" in (job.note or "")


@pytest.mark.parametrize(
    "body", [PAGE, b"[]", b'{"siblings":[{}]}'], ids=["page", "list", "file without a name"]
)
def test_an_answer_of_the_hub_that_is_not_readable_is_waited_out(
    testbed: PullTestbed, hub: Hub, body: bytes
) -> None:
    hub.answer = lambda request, path: request.reply(200, body)  # type: ignore[method-assign]

    job = testbed.pull("owner/repo:Q4_0")

    assert job.state is JobState.QUEUED
    assert "the network may ask for a login" in (job.note or "")


@pytest.mark.parametrize(
    "path", ["../../m-Q4_0.gguf", "a//m-Q4_0.gguf", "C:\\m-Q4_0.gguf", "m\x1b[2J-Q4_0.gguf"]
)
def test_a_path_that_cannot_be_stored_is_refused_before_the_download(
    testbed: PullTestbed, hub: Hub, cdn: LoopbackServer, path: str
) -> None:
    hub.add("owner/tricks", {path: TINY})

    job = testbed.pull("owner/tricks:Q4_0")

    assert job.error == "a file of the model has a name that cannot be stored"
    assert cdn.requests == []


def test_a_model_of_thousands_of_parts_is_refused(testbed: PullTestbed, hub: Hub) -> None:
    hub.add("owner/many", {f"m-Q4_0-{n:05}-of-02001.gguf": b"x" for n in range(1, 2002)})

    job = testbed.pull("owner/many:Q4_0")

    assert (job.error, job.files) == ("the model has 2001 files, more than any real one", ())


def test_a_path_that_is_no_unicode_is_refused(testbed: PullTestbed, hub: Hub) -> None:
    about = {
        "id": "owner/x",
        "sha": "0" * 40,
        "siblings": [{"rfilename": "\ud800.gguf", "size": 1}],
    }
    hub.answer = lambda request, path: request.reply(  # type: ignore[method-assign]
        200, json.dumps(about).encode()
    )

    job = testbed.pull("owner/x:latest")

    assert job.error == "a file of the model has a name that cannot be stored"


def test_a_redirect_to_a_malformed_address_fails_the_job_in_words(
    testbed: PullTestbed, registry: Registry
) -> None:
    answer = registry.answer

    def redirect_blobs(request: Handler, path: str) -> None:
        if "/blobs/" in path:
            request.redirect("http://[nowhere/")
        else:
            answer(request, path)

    registry.answer = redirect_blobs  # type: ignore[method-assign]

    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "pull_failed")
    assert "not well formed" in (job.error or "")


@pytest.mark.parametrize("command", ["cancel", "pause"])
def test_a_job_that_is_stopped_while_its_source_fails_is_not_postponed(
    make_testbed: Callable[..., PullTestbed],
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setattr(job_control, "REPORT_SECONDS", 0.01)
    testbed = make_testbed(ollama_registry=registry.url)
    job = testbed.submit("tiny:f16")

    def answer(request: Handler, path: str) -> None:
        # The last attempt: the worker has read the request when this answer comes.
        if len(registry.requests) == RetryPolicy().max_failures:
            getattr(testbed.commands, command)(job.id)
            request.server_of.stopping.wait(1.0)
        request.reply(503, b"")

    registry.answer = answer  # type: ignore[method-assign]
    testbed.run_queue()

    ended = testbed.job_store.get(job.id)
    assert ended.state is (JobState.CANCELLED if command == "cancel" else JobState.PAUSED)
    assert ended.not_before is None
