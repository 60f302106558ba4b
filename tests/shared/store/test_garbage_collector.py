"""The garbage collector removes what nothing refers to, and keeps what a running job needs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.shared.store.garbage_collector import PARTIAL_LIFETIME_SECONDS, SweepResult
from services.shared.store.model_store import ModelStore
from tests.shared.store.builders import blob_names, make_manifest, names, put_model, sha256_digest

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_an_unreferenced_blob_is_removed_once_it_is_old(store: ModelStore) -> None:
    blob = store.blobs.add_bytes(b"orphan")

    assert store.sweep().files == 0
    age(store.blobs.path(blob.digest), 7200)
    assert store.sweep() == SweepResult(files=1, freed_bytes=6)


def test_a_leased_blob_is_kept_whatever_its_age(store: ModelStore) -> None:
    blob = store.blobs.add_bytes(b"orphan")
    with store.lease() as lease:
        lease.add(blob.digest)
        assert store.sweep(min_age_seconds=0).files == 0

    assert store.sweep(min_age_seconds=0).files == 1


def test_deleting_a_model_keeps_a_leased_blob(store: ModelStore) -> None:
    put_model(store, "a:1", {"m.gguf": b"shared"})
    with store.lease() as lease:
        lease.add(sha256_digest(b"shared"))

        assert store.delete("a:1").freed_bytes == 0
        store.put(make_manifest("b:1", {"m.gguf": b"shared"}))

    assert names(store) == ["b:1"]


def test_discard_removes_only_unreferenced_blobs(store: ModelStore) -> None:
    put_model(store, "a:1", {"m.gguf": b"named"})
    store.blobs.add_bytes(b"unnamed")

    freed = store.discard(
        [sha256_digest(b"named"), sha256_digest(b"unnamed"), sha256_digest(b"absent")]
    )

    assert (freed, len(blob_names(store.layout.root))) == (7, 1)


def hold_a_lease(root: Path, digest: str, ready: Callable[[], None]) -> None:
    with ModelStore(root).lease() as lease:
        lease.add(digest)
        ready()
        signal.pause()


def test_the_lease_of_a_killed_process_protects_nothing(store: ModelStore) -> None:
    blob = store.blobs.add_bytes(b"orphan")
    ready = SPAWN.Event()
    worker = SPAWN.Process(target=hold_a_lease, args=(store.layout.root, blob.digest, ready.set))
    worker.start()
    assert ready.wait(30)
    assert store.sweep(min_age_seconds=0).files == 0

    worker.kill()
    worker.join(30)

    assert store.sweep(min_age_seconds=0).files == 1
    assert list(store.layout.leases.iterdir()) == []


def test_a_partial_is_kept_for_a_week_and_longer_on_request(store: ModelStore) -> None:
    digest = sha256_digest(b"big")
    paths = [store.blobs.partial_path(digest), store.blobs.state_path(digest)]
    for path in paths:
        path.write_bytes(b"part")
        age(path, 7200)

    assert store.sweep(min_age_seconds=0).files == 0
    for path in paths:
        age(path, PARTIAL_LIFETIME_SECONDS + 60)
    assert store.sweep(keep=[digest]).files == 0
    assert store.sweep().files == 2


def test_an_unfinished_import_is_removed_after_an_hour(store: ModelStore) -> None:
    partial = store.blobs.new_partial()
    partial.write_bytes(b"part")
    age(partial, 7200)

    assert store.sweep().files == 1


def test_sweeping_a_store_that_does_not_exist_creates_nothing(store: ModelStore) -> None:
    assert store.sweep() == SweepResult(0, 0)
    assert not store.layout.root.exists()


def put_and_delete(root: Path, number: int, rounds: int) -> None:
    store = ModelStore(root)
    for turn in range(rounds):
        name = f"model-{number}:{turn}"
        with store.lease() as lease:
            lease.add(sha256_digest(b"common"), sha256_digest(name.encode()))
            put_model(store, name, {"m.gguf": b"common", "own": name.encode()})
        assert store.resolve(name).name == name
        store.sweep(min_age_seconds=0)
        if turn % 2:
            store.delete(name)


def test_concurrent_processes_lose_no_blob(store: ModelStore) -> None:
    workers = [
        SPAWN.Process(target=put_and_delete, args=(store.layout.root, n, 10)) for n in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert names(store) == [f"model-{n}:{t}" for n in range(3) for t in range(0, 10, 2)]
    assert len(blob_names(store.layout.root)) == 16


def test_readers_never_see_a_model_without_its_blobs(store: ModelStore) -> None:
    put_model(store, "kept:1")
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        reader = ModelStore(store.layout.root)
        while not stop.is_set():
            seen.append(len([m for m in reader.list() if m.name == "kept:1"]))

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(30):
        put_model(store, "changing:1", {"m.gguf": bytes([turn]) * 20})
    store.delete("changing:1")
    stop.set()
    thread.join(30)

    assert set(seen) == {1}
