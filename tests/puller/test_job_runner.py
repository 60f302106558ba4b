"""How a job ends, whatever ended it, and who is told."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from services.puller import jobs
from services.puller.download.partial_file import Partial
from services.shared.pulls.job import PULL_MODEL, JobState
from tests.conftest import TINY_GGUF
from tests.fakes.registries.oci import Registry, digest_of
from tests.puller.conftest import Desk


def test_the_path_that_is_enqueued_is_the_function() -> None:
    assert f"{jobs.pull_model.__module__}.{jobs.pull_model.__name__}" == PULL_MODEL


def test_a_full_disk_ends_the_job_and_gives_the_room_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Partial.write

    def full(partial: Partial, data: bytes, offset: int) -> None:
        if partial.path.name.startswith(digest_of(TINY_GGUF.read_bytes()).replace(":", "-")):
            raise OSError(errno.ENOSPC, "no space left")
        write(partial, data, offset)

    monkeypatch.setattr(Partial, "write", full)
    job = desk.pull("tiny:f16")

    assert (job.state, job.error_code, job.error) == (
        JobState.FAILED,
        "disk_full",
        "the disk is full",
    )
    assert desk.leftovers() == []


def test_our_own_bug_is_an_apology_and_no_traceback(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(partial: Partial, data: bytes, offset: int) -> None:
        raise ZeroDivisionError("secret /path")

    monkeypatch.setattr(Partial, "write", bug)
    job = desk.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "internal_error")
    assert "secret" not in (job.error or "")


def test_a_failed_job_goes_on_with_a_retry(desk: Desk, registry: Registry) -> None:
    model = registry.manifests.pop("/v2/library/tiny/manifests/f16")
    failed = desk.pull("tiny:f16")
    registry.manifests["/v2/library/tiny/manifests/f16"] = model

    desk.tickets.send(desk.orders.retry(failed.id))
    desk.work()

    done = desk.board.get(failed.id)
    assert (done.state, done.error, done.attempts) == (JobState.DONE, None, 1)


class Receiver:
    """A webhook's other end."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []
        self.statuses: list[int] = []
        outer = self

        class OwnHandler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.told.append(json.loads(body))
                status = outer.statuses.pop(0) if outer.statuses else 200
                self.send_response(status)
                self.send_header("content-length", "0")
                self.send_header("location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), OwnHandler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.parametrize("statuses", [[], [500, 302]], ids=["at once", "at the third try"])
def test_the_webhook_hears_the_end(
    make_desk: Callable[..., Desk],
    registry: Registry,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    statuses: list[int],
) -> None:
    monkeypatch.setattr("services.puller.webhook._BETWEEN_SECONDS", 0)
    receiver.statuses = list(statuses)
    desk = make_desk(ollama_registry=registry.url, pull_webhook_url=receiver.url)

    job = desk.pull("tiny:f16")

    assert len(receiver.told) == len(statuses) + 1
    assert receiver.told[-1] == {
        "event": "pull.ended",
        "job": {
            "id": job.id,
            "model": "tiny:f16",
            "state": "done",
            "downloaded_bytes": job.downloaded_bytes,
            "total_bytes": job.total_bytes,
            "error": None,
            "error_code": None,
            "ended_at": job.ended_at,
        },
    }


def test_a_deaf_webhook_does_not_hurt_the_job(
    make_desk: Callable[..., Desk], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.puller.webhook._BETWEEN_SECONDS", 0)
    desk = make_desk(ollama_registry=registry.url, pull_webhook_url="http://127.0.0.1:1/")

    assert desk.pull("tiny:f16").state is JobState.DONE
