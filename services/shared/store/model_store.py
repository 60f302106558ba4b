"""The models on disk, as every service sees them: list, resolve, open, put, delete.

Reading needs no lock and works on a read-only mount. What changes which blobs are named (`put`,
`delete`, `sweep`, a lease's `add`) holds one short lock, never while bytes are hashed or copied:

    put     manifest written and synced  ->  [lock: blobs there? rename; old blobs to trash]
    delete  [lock: manifest gone; blobs nobody names or leases to trash]  ->  unlink the trash

A crash at any point leaves every listed model whole; at worst blobs nobody names, which `sweep`
removes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.shared.errors import Conflict, InvalidModelFile, InvalidModelName, ModelNotFound
from services.shared.model_name import ModelName
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
    """What a deletion did. `freed_bytes` came back to the file system: blobs other models share,
    and files somebody else has a hard link to, free nothing."""

    name: str
    freed_bytes: int


class ModelStore:
    """One models folder. Any process, any thread; creates nothing until something is written."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.blobs = Blobs(self.layout)
        self._manifests = Manifests(self.layout)
        self._collector = GarbageCollector(self.layout, self._manifests)
        self._reported: set[str] = set()

    def list(self) -> list[Manifest]:
        """Every complete model, by name."""
        found = [m for m in self._manifests.all() if self._is_complete(m)]
        return sorted(found, key=lambda m: m.name.casefold())

    def resolve(self, text: str) -> Manifest:
        """The model a person means, see `resolve.py`; its `name` says which one that was.

        InvalidModelName when it is no name, ModelNotFound with `details["models"]` when unknown.
        """
        if (exact := self._exact(text)) is not None:
            return exact
        models = self.list()
        found = resolve.find(models, text)
        if found is None:
            raise _unknown(text, models)
        return found

    def model_path(self, manifest: Manifest) -> Path:
        """What an engine opens: the GGUF blob, the first part of a split one, an MLX folder."""
        if not views.needs_view(manifest):
            return self.file_path(_only_model_file(manifest))
        return self.layout.view(manifest.digest) / views.entry_point(manifest)

    def file_path(self, file: StoredFile) -> Path:
        """The bytes of one file."""
        return self.blobs.path(file.digest)

    def lease(self) -> Lease:
        """A context manager that keeps blobs from the collector while a job works on them."""
        return Lease(self.layout)

    def put(self, manifest: Manifest) -> None:
        """Make a model appear, or replace it, at once; its blobs must be here.

        Blobs of the replaced one that nobody else names are removed. InvalidModelFile when a blob
        is missing or a path is not storable; InvalidModelName.
        """
        check(manifest)
        name = ModelName.parse(manifest.name)
        manifest = msgspec.structs.replace(manifest, name=str(name))
        self._require_blobs(manifest)
        views.make_view(self.layout, manifest)
        temporary, path = self._manifests.prepare(name, manifest)
        try:
            with self._collector.lock():
                # Again, and quick when nothing changed: somebody may have deleted since.
                self._require_blobs(manifest)
                views.make_view(self.layout, manifest)
                replaced = self._manifests.get(name)
                durable.move(temporary, path)
                trashed = self._collector.move_to_trash(replaced)
        finally:
            temporary.unlink(missing_ok=True)
        self._collector.unlink_all(trashed)
        logger.info("model stored", extra={"model": str(name), "bytes": manifest.size_bytes})

    def copy(self, text: str, new_name: str) -> Manifest:
        """Give a model one more name; shares all blobs."""
        manifest = msgspec.structs.replace(self.resolve(text), name=str(ModelName.parse(new_name)))
        self.put(manifest)
        return manifest

    def delete(self, text: str) -> DeleteResult:
        """Forget a model and remove the blobs nobody else names or leases.

        Never guesses: the name must be exact, or fit one model only (Conflict names the others).
        """
        with self._collector.lock():
            manifest = self._to_delete(text)
            self._manifests.remove(ModelName.parse(manifest.name))
            trashed = self._collector.move_to_trash(manifest)
        freed = self._collector.unlink_all(trashed)
        logger.info("model deleted", extra={"model": manifest.name, "freed_bytes": freed})
        return DeleteResult(manifest.name, freed)

    def discard(self, digests: Iterable[str]) -> int:
        """Remove those of the blobs that nobody names or leases, after a job that failed; the
        bytes that came back."""
        with self._collector.lock():
            trashed = self._collector.move_blobs_to_trash(digests)
        return self._collector.unlink_all(trashed)

    def sweep(self, *, min_age_seconds: float = 3600, keep: Iterable[str] = ()) -> SweepResult:
        """Remove what crashes left behind: blobs nobody names, old partials, temporary files.

        `keep` are digests whose partials a paused or queued job will resume; young files and
        leased digests stay anyway.
        """
        return self._collector.sweep(min_age_seconds=min_age_seconds, keep=frozenset(keep))

    def _exact(self, text: str) -> Manifest | None:
        try:
            manifest = self._manifests.get(ModelName.parse(text))
        except InvalidModelName:
            return None
        return manifest if manifest is not None and self._is_complete(manifest) else None

    def _to_delete(self, text: str) -> Manifest:
        # Broken models too: deleting is how one gets rid of them.
        models = sorted(self._manifests.all(), key=lambda m: m.name.casefold())
        found = resolve.find_certain(models, text)
        if not found:
            ModelName.parse(text)  # a text that is no name at all says so
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
    known = ", ".join(names) if names else "none yet"
    return ModelNotFound(
        f"no model named {text[:200]!r}; models here: {known}", details={"models": names}
    )
