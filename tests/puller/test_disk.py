"""Small, full and read-only disks."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.puller.__main__ import require_usable_store
from services.puller.build import build_job_runner
from services.shared.pulls.job import JobState
from services.shared.store.model_store import ModelStore
from tests.conftest import TINY_GGUF
from tests.fakes.registries.faults import ALWAYS, Fault
from tests.fakes.registries.oci import Registry, sha256_digest
from tests.fakes.registries.server import LoopbackServer
from tests.puller.conftest import PullTestbed
from tests.puller.processes import wait_for
from tests.shared.store.builders import put_model

TINY = TINY_GGUF.read_bytes()
OTHER = TINY[:-1] + bytes([TINY[-1] ^ 1])  # as large, with another digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for one of two models."""
    with mounted(tmp_path / "data", f"size={len(TINY) * 3 // 2}") as folder:
        yield folder


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if done.returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_two_downloads_do_not_share_the_room_of_one(
    make_testbed: Callable[..., PullTestbed],
    registry: Registry,
    cdn: LoopbackServer,
    small_disk: Path,
) -> None:
    registry.add_model("library/other:f16", {"model": OTHER})
    testbed = make_testbed(
        data_dir=small_disk, ollama_registry=registry.url, pull_timeout_seconds=600.0
    )
    first = testbed.submit("tiny:f16")
    cdn.plan.faults = [Fault(path_part=sha256_digest(TINY), stall_at=100_000, times=ALWAYS)]
    runner = build_job_runner(testbed.settings, testbed.client)
    thread = threading.Thread(target=runner.run, args=(first.id, first.ticket))
    thread.start()
    wait_for(lambda: testbed.job_store.get(first.id).downloaded_bytes >= 100_000)
    testbed.client.delete(testbed.job_queue.queue.key)

    second = testbed.pull("other:f16")

    assert (second.state, second.attempts) == (JobState.QUEUED, 0)
    assert "other downloads need" in (second.note or "")
    assert second.not_before is not None
    runner.request_stop()
    thread.join()
    cdn.plan.faults = []
    testbed.run_queue()
    assert testbed.job_store.get(first.id).state is JobState.DONE
    testbed.job_queue.send(testbed.commands.resume(second.id))
    testbed.run_queue()
    failed = testbed.job_store.get(second.id)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "disk_full")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, "disk_full", "the disk is full"),
        (errno.EROFS, "pull_failed", "may not write to the models folder"),
        (errno.EACCES, "pull_failed", "may not write to the models folder"),
    ],
    ids=["full", "read-only", "another owner"],
)
def test_a_disk_that_refuses_a_lease_is_named_as_the_reason(
    testbed: PullTestbed, monkeypatch: pytest.MonkeyPatch, number: int, code: str, words: str
) -> None:
    def refuse(store: ModelStore) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(ModelStore, "lease", refuse)
    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, code)
    assert words in (job.error or "")


def test_a_used_up_quota_keeps_the_bytes(
    testbed: PullTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "services.puller.download.partial_file.PartialFile.write",
        lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")),
    )
    job = testbed.pull("tiny:f16")

    assert (job.state, job.error_code) == (JobState.FAILED, "disk_full")
    assert testbed.leftover_files() != []


def test_the_puller_does_not_start_with_a_models_folder_it_cannot_use(
    redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "models").write_text("not a folder")
    done = subprocess.run(
        [sys.executable, "-m", "services.puller"],
        env={"SPINDLL_DATA_DIR": str(tmp_path), "SPINDLL_REDIS_URL": redis_url, "PATH": ""},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"the models folder {tmp_path / 'models'} is not writable (File exists); it must belong"
        f" to the user that runs the puller: run `chown -R {os.geteuid()}:{os.getegid()}` on it;"
        " with containers, on the folder that MODELS names"
    )


def test_a_sweep_frees_a_disk_that_has_no_room_for_a_folder(tmp_path: Path) -> None:
    with mounted(tmp_path / "data", "size=4m,nr_inodes=40") as folder:
        store = ModelStore(folder)
        require_usable_store(store)
        put_model(store, "tiny:latest")
        orphan = store.blobs.path(store.blobs.add_bytes(b"x" * 100_000).digest)
        os.utime(orphan, (0, 0))
        with contextlib.suppress(OSError):
            for i in range(40):
                (folder / f"other{i}").touch()
        with pytest.raises(OSError, match="No space left"):
            (folder / "folder").mkdir()

        assert store.sweep().freed_bytes == 100_000


class FullStore(ModelStore):
    def check_writable(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_end_the_puller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_usable_store(FullStore(tmp_path))

    assert caplog.messages == ["models folder full"]
