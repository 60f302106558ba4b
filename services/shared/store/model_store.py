"""The models on disk, as all services use them: list, resolve, open, put, delete.

Reading needs no lock and works on a read-only mount. Operations that change which blobs are
referred to (`put`, `delete`, `sweep`, a lease's `add`) hold one lock, and not while bytes are
hashed or copied:

    put     write and sync the manifest  ->  [lock: check blobs, rename, old blobs to trash]
    delete  [lock: remove the manifest, unneeded blobs to trash]  ->  unlink the trash

After a crash at any point every listed model is complete. At worst there are blobs that nothing
refers to; `sweep` removes them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.shared.errors import Conflict, InvalidModelFile, InvalidModelName, ModelNotFound
from services.shared.model_name import ModelName, Source
from services.shared.store import durable, resolve, views
from services.shared.store.blobs import Blobs
from services.shared.store.garbage_collector import GarbageCollector, SweepResult
from services.shared.store.layout import Layout
from services.shared.store.leases import Lease
from services.shared.store.manifest import FileRole, Manifest, StoredFile
from services.shared.store.manifests import Manifests, check

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """The result of a deletion.

    `freed_bytes` is what the file system got back: blobs that other models share, and hard links
    to files outside the store, free nothing.
    """

    name: str
    freed_bytes: int


class ModelStore:
    """One models folder. Any process and any thread may use it; reading creates nothing."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.blobs = Blobs(self.layout)
        self._manifests = Manifests(self.layout)
        self._collector = GarbageCollector(self.layout, self._manifests)
        self._reported: set[str] = set()

    def list(self) -> list[Manifest]:
        """Every complete model, sorted by name."""
        found = [m for m in self._manifests.all() if self._is_complete(m)]
        return sorted(found, key=lambda m: m.name.casefold())

    def resolve(self, text: str) -> Manifest:
        """The model that a text means, see `resolve.py`; its `name` is the canonical one.

        Raises InvalidModelName, or ModelNotFound with all stored names in `details["models"]`.
        """
        if (exact := self._exact(text)) is not None:
            return exact
        models = self.list()
        found = resolve.find(models, text)
        if found is None:
            raise _unknown(text, models)
        return found

    def model_path(self, manifest: Manifest) -> Path:
        """The path that the engine opens: a GGUF, the first of its parts, or an MLX folder."""
        if not views.needs_view(manifest):
            return self.file_path(_only_model_file(manifest))
        return self.layout.view(manifest.digest) / views.entry_point(manifest)

    def file_path(self, file: StoredFile) -> Path:
        """The path of the blob of one file."""
        return self.blobs.path(file.digest)

    def lease(self) -> Lease:
        """A context manager that protects blobs from removal while a job works on them."""
        return Lease(self.layout)

    def put(self, manifest: Manifest) -> None:
        """Add a model, or replace it, in one step; its blobs must be in the store.

        Removes those blobs of the replaced model that nothing else refers to. Raises
        InvalidModelName, or InvalidModelFile when a blob is missing or a path is not allowed.
        """
        self._put(manifest, may_replace=True)

    def _put(self, manifest: Manifest, *, may_replace: bool) -> Manifest:
        check(manifest)
        name = ModelName.parse(manifest.name)
        manifest = msgspec.structs.replace(manifest, name=str(name))
        self._require_blobs(manifest)
        views.make_view(self.layout, manifest)
        temporary, path = self._manifests.prepare(name, manifest)
        try:
            with self._collector.lock():
                # Again under the lock, since a blob may have been removed; fast if none was.
                self._require_blobs(manifest)
                views.make_view(self.layout, manifest)
                replaced = self._manifests.get(name)
                if not may_replace and (kept := self._find_same(manifest, replaced)) is not None:
                    return kept
                durable.move(temporary, path)
                trashed = self._collector.move_to_trash(replaced)
        finally:
            temporary.unlink(missing_ok=True)
        self._collector.unlink_all(trashed)
        logger.info("model stored", extra={"model": str(name), "bytes": manifest.size_bytes})
        return manifest

    def _find_same(self, manifest: Manifest, there: Manifest | None) -> Manifest | None:
        """The model that has this one's name and files already; Conflict when another has it."""
        if there is not None and there.digest == manifest.digest:
            return there
        name = ModelName.parse(manifest.name)
        if there is not None or self._manifests.find_damaged(name) is not None:
            raise Conflict(f"there is another model named {manifest.name!r}; delete it first")
        return None

    def copy(self, text: str, new_name: str) -> Manifest:
        """Give a model another name too; both share all blobs.

        Raises Conflict when that name is another model's. Copying the same model again is fine.
        """
        name = ModelName.parse(new_name)
        if name.source is Source.URL:
            raise InvalidModelName("a copy has a name, not the address of a download")
        copied = msgspec.structs.replace(self.resolve(text), name=str(name))
        return self._put(copied, may_replace=False)

    def delete(self, text: str) -> DeleteResult:
        """Delete a model and its blobs, except those that another model or a lease needs.

        The name must be exact, or match only one model. Raises Conflict with the names of all
        matches when there are several.
        """
        with self._collector.lock():
            name, trashed = self._delete_damaged(text) or self._delete(text)
        freed = self._collector.unlink_all(trashed)
        logger.info("model deleted", extra={"model": name, "freed_bytes": freed})
        return DeleteResult(name, freed)

    def _delete(self, text: str) -> tuple[str, Sequence[Path]]:
        manifest = self._to_delete(text)
        self._manifests.remove(ModelName.parse(manifest.name))
        return manifest.name, self._collector.move_to_trash(manifest)

    def _delete_damaged(self, text: str) -> tuple[str, Sequence[Path]] | None:
        """Delete a model whose manifest cannot be read, by its exact name; else None."""
        try:
            name = ModelName.parse(text)
        except InvalidModelName:
            return None
        digests = self._manifests.find_damaged(name)
        if digests is None:
            return None
        self._manifests.remove(name)
        return str(name), self._collector.move_blobs_to_trash(digests)

    def remove_partials(self, digests: Iterable[str]) -> int:
        """Remove the partial files that no download holds; the freed bytes."""
        return sum(self.blobs.remove_partial(digest) for digest in digests)

    def check_writable(self) -> None:
        """Raise OSError unless this process may create the store's folders and files.

        The trash is created here: a full disk, which a sweep must empty, has no room for a folder.
        """
        durable.make_folder(self.layout.trash, below=self.layout.root)
        self.blobs.discard(self.blobs.partial_path(f"sha256:{'0' * 64}"))
        with self.lease():
            pass

    def discard(self, digests: Iterable[str]) -> int:
        """Remove those of a failed job's blobs that nothing refers to; the freed bytes."""
        with self._collector.lock():
            trashed = self._collector.move_blobs_to_trash(digests)
        return self._collector.unlink_all(trashed)

    def sweep(self, *, min_age_seconds: float = 3600, keep: Iterable[str] = ()) -> SweepResult:
        """Remove what crashes left behind: unneeded blobs, old partials, temporary files.

        `keep` are digests whose partials a paused or queued job will resume. Recent files and
        leased digests are kept in any case.
        """
        return self._collector.sweep(min_age_seconds=min_age_seconds, keep=frozenset(keep))

    def _exact(self, text: str) -> Manifest | None:
        try:
            manifest = self._manifests.get(ModelName.parse(text))
        except InvalidModelName:
            return None
        return manifest if manifest is not None and self._is_complete(manifest) else None

    def _to_delete(self, text: str) -> Manifest:
        # Incomplete models too: a delete is the way to remove them.
        models = sorted(self._manifests.all(), key=lambda m: m.name.casefold())
        found = resolve.find_certain(models, text)
        if not found:
            ModelName.parse(text)  # raises InvalidModelName when the text is not a name
            raise _unknown(text, models)
        if len(found) > 1:
            names = [m.name for m in found]
            raise Conflict(
                f"{text!r} could be any of: {', '.join(names)}", details={"models": names}
            )
        return found[0]

    def _require_blobs(self, manifest: Manifest) -> None:
        if missing := self._missing(manifest):
            raise InvalidModelFile(f"the file {missing.path} of the model is not in the store")

    def _missing(self, manifest: Manifest) -> StoredFile | None:
        has = self.blobs.has
        return next((f for f in manifest.files if not has(f.digest, f.size_bytes)), None)

    def _is_complete(self, manifest: Manifest) -> bool:
        missing = self._missing(manifest)
        if missing is None:
            return True
        if manifest.digest not in self._reported:
            self._reported.add(manifest.digest)
            logger.warning(
                "model is incomplete", extra={"model": manifest.name, "file": missing.path}
            )
        return False


def _only_model_file(manifest: Manifest) -> StoredFile:
    for file in manifest.files:
        if file.role is FileRole.MODEL:
            return file
    raise InvalidModelFile("the model has no weights")


def _unknown(text: str, models: Iterable[Manifest]) -> ModelNotFound:
    names = [m.name for m in models]
    stored = ", ".join(names) if names else "none yet"
    return ModelNotFound(
        f"no model named {text[:200]!r}; stored models: {stored}", details={"models": names}
    )
