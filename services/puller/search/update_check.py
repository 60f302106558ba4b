"""Whether the source of a stored model has a newer version of it.

The versions are compared first. A new commit of a repository may change only its README, so the
files decide then: a model is newer when a pull would change one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from services.puller.download.file_fetcher import compute_git_oid
from services.puller.sources.base import (
    InlineFile,
    Listing,
    ModelSource,
    RemoteFile,
    ResolveOptions,
)
from services.shared.errors import SourceUnavailable, SpindllError
from services.shared.model_name import ModelName, Source
from services.shared.puller_rpc.updates import UpdateAnswer, UpdateQuery
from services.shared.store.manifest import FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore


class UpdateCheck:
    """Asks the sources of the models in one store. Any thread may use it."""

    def __init__(
        self,
        store: ModelStore,
        sources: Mapping[Source, ModelSource],
        *,
        allowed_hosts: frozenset[str] = frozenset(),
    ) -> None:
        """`allowed_hosts` are the hosts that may be asked; empty allows every host."""
        self._store = store
        self._sources = sources
        self._allowed_hosts = allowed_hosts

    def answer(self, query: UpdateQuery) -> UpdateAnswer:
        """Compare a stored model with what its source has now."""
        try:
            manifest = self._store.resolve(query.model)
            name = ModelName.parse(manifest.pulled_name or manifest.name)
            if self._allowed_hosts and name.host.lower() not in self._allowed_hosts:
                return UpdateAnswer(note=f"models from {name.host} are not allowed by the settings")
            options = ResolveOptions(format=manifest.description.format)
            listing = self._sources[name.source].resolve(name, options)
        except SourceUnavailable as error:
            return UpdateAnswer(failed=error.message)
        except SpindllError as error:
            return UpdateAnswer(note=error.message)
        return self._compare(manifest, listing)

    def _compare(self, manifest: Manifest, listing: Listing) -> UpdateAnswer:
        if listing.version == manifest.version:
            return UpdateAnswer(newest_version=listing.version)
        stored = {(f.role, f.path): f for f in manifest.files}
        changed = [f for f in listing.files if not self._is_same(f, stored.get((f.role, f.path)))]
        texts = [f for f in listing.inline_files if f.role is not FileRole.REGISTRY_MANIFEST]
        offered = {(f.role, f.path) for f in listing.files}
        offered |= {(f.role, f.path) for f in listing.inline_files}
        is_newer = (
            bool(changed)
            or not all(_is_same_text(f, stored.get((f.role, f.path))) for f in texts)
            or bool(stored.keys() - offered)
        )
        missing = {
            f.download_digest: f.size_bytes
            for f in changed
            if f.digest is None or not self._store.blobs.has(f.digest, f.size_bytes)
        }
        return UpdateAnswer(
            newest_version=listing.version, is_newer=is_newer, download_bytes=sum(missing.values())
        )

    def _is_same(self, file: RemoteFile, stored: StoredFile | None) -> bool:
        if stored is None or stored.size_bytes != file.size_bytes:
            return False
        if file.digest is not None or file.git_oid is None:
            return stored.digest == file.digest
        return compute_git_oid(self._store.file_path(stored), stored.size_bytes) == file.git_oid


def _is_same_text(file: InlineFile, stored: StoredFile | None) -> bool:
    digest = f"sha256:{hashlib.sha256(file.data).hexdigest()}"
    return stored is not None and stored.digest == digest
