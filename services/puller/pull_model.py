"""Pull one model, from its name to its manifest.

    resolve ─► lease the blobs ─► check the disk ─► fetch each file ─► describe ─► put the manifest

The lease protects finished blobs from garbage collection until the manifest names them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing

from services.puller.assemble import assemble
from services.puller.download.disk_space import require_free_space
from services.puller.download.file_fetcher import FileFetcher
from services.puller.download.retry import RetryPolicy, RetryState
from services.puller.formats import engine_support
from services.puller.formats.describe import describe_model
from services.puller.job_control import JobControl
from services.puller.sources.base import Listing, ModelSource, ResolveOptions
from services.puller.transport.range_response import CredentialsExpired
from services.puller.transport.session_pool import SessionPool
from services.shared.errors import PermissionDenied, PullFailed, SourceUnavailable
from services.shared.model_name import ModelName, Source
from services.shared.pulls.job import FileProgress, PullJob
from services.shared.store.leases import Lease
from services.shared.store.manifest import FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)

_MAX_RESOLVES = 5  # in a row, without a byte between them


class Puller:
    """Pulls models for one worker process, one at a time."""

    def __init__(
        self,
        store: ModelStore,
        sources: Mapping[Source, ModelSource],
        fetcher: FileFetcher,
        *,
        retry_policy: RetryPolicy,
        reserve_bytes: int,
        allowed_hosts: frozenset[str] = frozenset(),
    ) -> None:
        """`allowed_hosts` are the hosts that models may come from; empty allows every host."""
        self._store = store
        self._sources = sources
        self._fetcher = fetcher
        self._retry_policy = retry_policy
        self._reserve_bytes = reserve_bytes
        self._allowed_hosts = allowed_hosts

    def pull(self, job: PullJob, control: JobControl) -> Manifest:
        """Fetch the job's model, put its manifest and return it.

        Raises Interrupted, which leaves the downloaded bytes for the next run, or a SpindllError.
        """
        name = ModelName.parse(job.model)
        self._check_allowed(name)
        options = ResolveOptions(format=job.format, sha256=job.sha256, address=job.address)
        with self._store.lease() as lease:
            listing, files = self._fetch(name, options, lease, control)
            control.raise_if_interrupted()
            control.set_note("checking the files")
            description = describe_model(files, self._store.file_path, name=name)
            manifest = assemble(self._store, listing, files, description)
            self._store.put(manifest)
        return manifest

    def _check_allowed(self, name: ModelName) -> None:
        if self._allowed_hosts and name.host.lower() not in self._allowed_hosts:
            raise PermissionDenied(f"models from {name.host} are not allowed by the settings")

    def _fetch(
        self, name: ModelName, options: ResolveOptions, lease: Lease, control: JobControl
    ) -> tuple[Listing, list[StoredFile]]:
        resolves, best_bytes = 0, 0
        while resolves < _MAX_RESOLVES:
            resolves += 1
            listing = self._resolve(name, options, control)
            lease.add(*(file.download_digest for file in listing.files))
            self._report_files(listing, lease, control)
            try:
                return listing, self._fetch_files(listing, lease, control)
            except CredentialsExpired:  # a bearer token lives for minutes, a large file for hours
                logger.info("credentials expired", extra={"model": str(name)})
                if control.downloaded_bytes > best_bytes:
                    resolves, best_bytes = 0, control.downloaded_bytes
        raise PullFailed("the source keeps refusing the credentials that it issued")

    def _resolve(self, name: ModelName, options: ResolveOptions, control: JobControl) -> Listing:
        retries = RetryState(self._retry_policy)
        while True:
            control.raise_if_interrupted()
            try:
                listing = self._sources[name.source].resolve(name, options)
                _require_engine(listing)
                return listing
            except SourceUnavailable as error:
                wait_seconds = retries.next_wait_seconds(error.retry_after_seconds)
                if wait_seconds is None:
                    raise
                control.set_note(f"{error.message}; the pull will be retried")
                control.interrupted.wait(wait_seconds)
                control.set_note(None)

    def _report_files(self, listing: Listing, lease: Lease, control: JobControl) -> None:
        files = [
            FileProgress(
                path=file.path,
                digest=file.download_digest,
                downloaded_bytes=self._fetcher.downloaded_bytes(file),
                total_bytes=file.size_bytes,
            )
            for file in listing.files
        ]
        control.set_files(files)
        # Files may share a digest, and need its space only once.
        lease.reserve(
            {f.download_digest: f.size_bytes for f in listing.files},
            lambda missing_bytes, other_bytes: require_free_space(
                self._store.layout.root,
                missing_bytes=missing_bytes,
                other_bytes=other_bytes,
                reserve_bytes=self._reserve_bytes,
            ),
        )

    def _fetch_files(self, listing: Listing, lease: Lease, control: JobControl) -> list[StoredFile]:
        stored = []
        # Small files first: a missing template should not fail the pull after forty gigabytes.
        with closing(SessionPool(timeout_seconds=self._retry_policy.timeout_seconds)) as sessions:
            for file in sorted(listing.files, key=lambda f: (f.size_bytes, f.path)):
                control.raise_if_interrupted()
                fetched = self._fetcher.fetch(file, control, sessions)
                lease.add(fetched.digest)
                stored.append(fetched)
        for inline in listing.inline_files:
            blob = self._store.blobs.add_bytes(inline.data)
            lease.add(blob.digest)
            stored.append(
                StoredFile(
                    role=inline.role,
                    path=inline.path,
                    digest=blob.digest,
                    size_bytes=blob.size_bytes,
                )
            )
        return sorted(stored, key=lambda f: (f.role is not FileRole.MODEL, f.path))


def _require_engine(listing: Listing) -> None:
    """Raises PullFailed before the download. A name never becomes that of another model."""
    if listing.format == "gguf" and not engine_support.LOADS_GGUF:
        raise PullFailed(
            f"{engine_support.NO_GGUF} (`spindll search {listing.name.model} --format mlx`)"
        )
