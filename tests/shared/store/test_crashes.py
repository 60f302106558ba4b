"""After a crash or a power cut at any point, every listed model is complete."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.shared.store.blobs import hash_file
from services.shared.store.manifest import Description
from services.shared.store.model_store import ModelStore
from tests.shared.store.builders import put_model
from tests.shared.store.power_loss import Disk, PowerCut

SPLIT = {f"m-0000{i}-of-00002.gguf": bytes([i]) * 50 for i in (1, 2)}
MLX = {"config.json": b"{}", "sub/model.safetensors": b"w" * 90}

Operation = Callable[[ModelStore], object]

OPERATIONS: dict[str, Operation] = {
    "put": lambda s: put_model(s, "fresh:1", {"m.gguf": b"new" * 30}),
    "put of a split model": lambda s: put_model(s, "fresh:1", SPLIT),
    "put of a folder": lambda s: put_model(
        s, "fresh:1", MLX, description=Description(format="mlx", architecture="llama")
    ),
    "replacing": lambda s: put_model(s, "changed:1", {"m.gguf": b"newer" * 30}),
    "delete": lambda s: s.delete("changed:1"),
    "delete of a folder": lambda s: s.delete("folder:1"),
    "copy": lambda s: s.copy("changed:1", "fresh:1"),
    "sweep": lambda s: s.sweep(min_age_seconds=0),
}
# The models that an operation may remove; all others must still be complete afterwards.
MAY_BE_GONE = {"delete": {"changed:1"}, "delete of a folder": {"folder:1"}}


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory if possible: the test builds and removes hundreds of small trees."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


def make_store(root: Path) -> ModelStore:
    store = ModelStore(root)
    put_model(store, "kept:1", {"m.gguf": b"kept" * 30})
    put_model(store, "changed:1", {"m.gguf": b"old" * 30, "shared": b"kept" * 30})
    put_model(store, "folder:1", MLX, description=Description(format="mlx", architecture="llama"))
    (root / "blobs" / ("sha256-" + "a" * 64)).write_bytes(b"unreferenced")
    return store


def crashes(operation: Operation, folder: Path) -> Iterator[tuple[Path, Path]]:
    """The actual tree and the durable tree, for a power cut at every call."""
    make_store(folder / "before")
    for cut_at in itertools.count():
        base = folder / str(cut_at)
        root = base / "models"
        shutil.copytree(folder / "before", root, symlinks=True)
        disk = Disk(root)
        disk.remember_all()
        disk.cut_at = cut_at
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk.install(monkeypatch)
            try:
                operation(ModelStore(root))
            except PowerCut:
                finished = False
            else:
                finished = True
        yield root, disk.survivors(base / "durable")
        shutil.rmtree(base)
        if finished:
            assert cut_at > 3
            return


def assert_whole(root: Path, must_be_there: set[str]) -> None:
    store = ModelStore(root)
    listed = {manifest.name: manifest for manifest in store.list()}
    assert must_be_there <= set(listed)
    for manifest in listed.values():
        for file in manifest.files:
            assert hash_file(store.file_path(file)) == file.digest
        path = store.model_path(manifest)
        assert path.exists()
        if path.is_dir():
            assert all(p.exists() for p in path.rglob("*"))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_power_cut_leaves_only_whole_models(name: str, memory_path: Path) -> None:
    must = {"kept:1", "changed:1", "folder:1"} - MAY_BE_GONE.get(name, set())

    for standing, durable in crashes(OPERATIONS[name], memory_path):
        assert_whole(standing, must)
        assert_whole(durable, must)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_sweep_after_a_crash_leaves_only_referenced_files(name: str, memory_path: Path) -> None:
    for standing, _ in crashes(OPERATIONS[name], memory_path):
        store = ModelStore(standing)
        yesterday = time.time() - 24 * 3600
        for path in [*standing.rglob("*"), *standing.rglob(".*")]:
            os.utime(path, (yesterday, yesterday), follow_symlinks=False)

        store.sweep(min_age_seconds=0)

        named = {file.digest for m in store.list() for file in m.files}
        blobs = {p.name.replace("-", ":") for p in (standing / "blobs").iterdir()}
        assert blobs == named
        assert not list((standing / "trash").glob("*"))
        assert not list(standing.rglob(".*.tmp"))


def test_the_simulated_disk_forgets_what_was_not_synced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    disk = Disk(root)
    disk.remember_all()

    (root / "never synced").write_bytes(b"x")

    assert list(disk.survivors(tmp_path / "durable").iterdir()) == []
