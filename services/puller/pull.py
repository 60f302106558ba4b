"""One pull from a name to a listed model: resolve, check the room, fetch, describe, put.

    resolve ─► lease the blobs ─► room? ─► fetch each file ─► describe and lint ─► manifest last

The lease keeps finished blobs from the collector until the manifest names them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from services.puller.assemble import assemble
from services.puller.download.disk_space import require_room
from services.puller.download.file_fetcher import Fetcher
from services.puller.download.retry import Limits, Patience
from services.puller.formats.describe import describe_model
from services.puller.job_control import JobControl
from services.puller.sources.base import Listing, Order
from services.puller.sources.base import Source as ModelSource
from services.puller.transport.range_response import AccessExpired
from services.shared.errors import PermissionDenied, PullFailed, SourceUnavailable
from services.shared.model_name import ModelName, Source
from services.shared.pulls.job import FileProgress, PullJob
from services.shared.store.leases import Lease
from services.shared.store.manifest import FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)

_MAX_RESOLVES = 5


class Puller:
    """Everything a pull needs, for one worker process. One pull at a time."""

    def __init__(
        self,
        store: ModelStore,
        sources: Mapping[Source, ModelSource],
        fetcher: Fetcher,
        *,
        limits: Limits,
        reserve_bytes: int,
        allowed_hosts: frozenset[str] = frozenset(),
    ) -> None:
        """`allowed_hosts`: where models may come from; empty means from anywhere."""
        self._store = store
        self._sources = sources
        self._fetcher = fetcher
        self._limits = limits
        self._reserve_bytes = reserve_bytes
        self._allowed_hosts = allowed_hosts

    def pull(self, job: PullJob, control: JobControl) -> Manifest:
        """Fetch the job's model and list it. Interrupted leaves what is there for the next run;
        SpindllErrors say why it failed."""
        name = ModelName.parse(job.model)
        self._require_allowed(name)
        order = Order(format=job.format, sha256=job.sha256)
        with self._store.lease() as lease:
            listing, files = self._fetch(name, order, lease, control)
            control.check()
            control.set_note("checking the files")
            description = describe_model(files, self._store.file_path)
            manifest = assemble(self._store, listing, files, description)
            self._store.put(manifest)
        return manifest

    def _require_allowed(self, name: ModelName) -> None:
        if self._allowed_hosts and name.host.lower() not in self._allowed_hosts:
            raise PermissionDenied(f"models from {name.host} are not allowed by the settings")

    def _fetch(
        self, name: ModelName, order: Order, lease: Lease, control: JobControl
    ) -> tuple[Listing, list[StoredFile]]:
        for _ in range(_MAX_RESOLVES):
            listing = self._resolve(name, order, control)
            lease.add(*(file.download_digest for file in listing.files))
            self._announce(listing, control)
            try:
                return listing, self._fetch_files(listing, lease, control)
            except AccessExpired:  # a bearer token lives for minutes, a large file for hours
                logger.info("asking for fresh credentials", extra={"model": str(name)})
        raise PullFailed("the source keeps refusing the credentials it gave")

    def _resolve(self, name: ModelName, order: Order, control: JobControl) -> Listing:
        patience = Patience(self._limits)
        while True:
            control.check()
            try:
                return self._sources[name.source].resolve(name, order)
            except SourceUnavailable as error:
                wait_seconds = patience.wait_seconds(error.retry_after_seconds)
                if wait_seconds is None:
                    raise
                control.set_note("the source does not answer; trying again")
                control.interrupted.wait(wait_seconds)
                control.set_note(None)

    def _announce(self, listing: Listing, control: JobControl) -> None:
        known = [
            FileProgress(
                path=file.path,
                digest=file.download_digest,
                downloaded_bytes=self._fetcher.downloaded_bytes(file),
                total_bytes=file.size_bytes,
            )
            for file in listing.files
        ]
        control.set_files(known)
        # Files may repeat a digest; the room is needed once.
        missing = {f.digest: f.total_bytes - f.downloaded_bytes for f in known}
        require_room(
            self._store.layout.root,
            missing_bytes=sum(missing.values()),
            reserve_bytes=self._reserve_bytes,
        )

    def _fetch_files(self, listing: Listing, lease: Lease, control: JobControl) -> list[StoredFile]:
        stored = []
        # Small ones first: a template that is missing should not cost forty gigabytes.
        for file in sorted(listing.files, key=lambda f: (f.size_bytes, f.path)):
            control.check()
            found = self._fetcher.fetch(file, control)
            lease.add(found.digest)
            stored.append(found)
        for small in listing.small_files:
            blob = self._store.blobs.add_bytes(small.data)
            lease.add(blob.digest)
            stored.append(
                StoredFile(
                    role=small.role, path=small.path, digest=blob.digest, size_bytes=blob.size_bytes
                )
            )
        return sorted(stored, key=lambda f: (f.role is not FileRole.MODEL, f.path))
