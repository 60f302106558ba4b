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

from services.puller.download.partial_file import PartialFile
from services.shared.errors import DiskFull
from services.shared.store import blobs
from services.shared.store.garbage_collector import PARTIAL_LIFETIME_SECONDS, SweepResult
from services.shared.store.model_store import ModelStore
from tests.shared.store.builders import blob_names, make_manifest, names, put_model, sha256_digest

SPAWN = multiprocessing.get_context("spawn")


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_an_unreferenced_blob_is_removed_once_it_is_old(store: ModelStore) -> None:
    put_model(store, "kept:1")
    blob = store.blobs.add_bytes(b"orphan")

    assert store.sweep().files == 0
    age(store.blobs.path(blob.digest), 7200)
    assert store.sweep() == SweepResult(files=1, freed_bytes=6)


def test_a_leased_blob_is_kept_whatever_its_age(store: ModelStore) -> None:
    put_model(store, "kept:1")
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
    put_model(store, "kept:1")
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
    partial = store.blobs.partial_path(digest)
    paths = [partial, partial.with_name(f"{partial.name}.json")]
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


def test_an_import_by_hard_link_is_kept_while_it_is_hashed(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.gguf"
    old.write_bytes(b"weights")
    age(old, 30 * 24 * 3600)
    hash_file = blobs.hash_file

    def sweep_then_hash(path: Path) -> str:
        assert store.sweep(min_age_seconds=0).files == 0
        return hash_file(path)

    monkeypatch.setattr(blobs, "hash_file", sweep_then_hash)
    with store.lease() as lease:
        blob = store.blobs.add_file(old, lease=lease)

    assert (blob.linked, store.blobs.has(blob.digest, 7)) == (True, True)


def test_without_any_manifest_recent_blobs_are_kept(store: ModelStore) -> None:
    put_model(store, "a:1", {"m.gguf": b"weights"})
    away = store.layout.manifests.rename(store.layout.root / "restored")
    age(store.blobs.path(sha256_digest(b"weights")), 24 * 3600)

    assert store.sweep().files == 0
    away.rename(store.layout.manifests)
    assert names(store) == ["a:1"]


def test_two_leases_do_not_count_on_the_same_space(store: ModelStore) -> None:
    asked: list[tuple[int, int]] = []
    sizes = {sha256_digest(b"a"): 40 << 20, sha256_digest(b"shared"): 1 << 20}
    other = {sha256_digest(b"b"): 30 << 20, sha256_digest(b"shared"): 1 << 20}
    partial = store.blobs.partial_path(sha256_digest(b"a"))
    partial.write_bytes(bytes(8 << 20))

    with store.lease() as first, store.lease() as second:
        first.reserve(sizes, lambda *bytes_: asked.append(bytes_))
        second.reserve(other, lambda *bytes_: asked.append(bytes_))
    with store.lease() as third:
        third.reserve(other, lambda *bytes_: asked.append(bytes_))

    assert asked == [(33 << 20, 0), (31 << 20, 32 << 20), (31 << 20, 0)]


def test_a_refused_reservation_reserves_nothing(store: ModelStore) -> None:
    def refuse(missing_bytes: int, other_bytes: int) -> None:
        raise DiskFull("no room")

    asked: list[tuple[int, int]] = []
    with store.lease() as first, store.lease() as second:
        with pytest.raises(DiskFull):
            first.reserve({sha256_digest(b"a"): 100}, refuse)
        second.reserve({sha256_digest(b"b"): 100}, lambda *bytes_: asked.append(bytes_))

    assert asked == [(100, 0)]


def test_a_partial_that_a_download_holds_is_not_removed(store: ModelStore) -> None:
    digest = sha256_digest(b"big")
    path = store.blobs.partial_path(digest)
    held = PartialFile.lock(path)
    assert held is not None
    held.write(bytes(1 << 20), 0)

    assert (store.remove_partials([digest]), path.exists()) == (0, True)
    held.close()
    assert store.remove_partials([digest]) >= 1 << 20
    assert not path.exists()


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
