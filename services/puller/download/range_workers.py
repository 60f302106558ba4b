"""The threads of a download: each requests ranges, writes them, and handles failures.

The target of a redirect to another origin is remembered. The workers request it directly, without
credentials, until it refuses. A source that answers a range with the whole file is read by one
worker, which skips what is on disk.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from dataclasses import dataclass

from services.puller.download.pieces import Piece, choose_request_bytes
from services.puller.download.progress import DownloadProgress
from services.puller.download.retry import RetryPolicy, RetryState, StallDetector
from services.puller.download.throttle import Throttle
from services.puller.transport.address import Address
from services.puller.transport.busy import find_wait_seconds, is_busy
from services.puller.transport.http_client import HttpSession, Reply
from services.puller.transport.range_response import (
    BodyKind,
    ContentChanged,
    CredentialsExpired,
    LinkExpired,
    RangeRequest,
    RangeResponse,
    build_range_headers,
    classify_response,
    find_validator,
)
from services.puller.transport.session_pool import SessionPool
from services.puller.transport.urls import has_origin
from services.shared.errors import DiskFull, InternalError, SourceUnavailable, SpindllError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_JOIN_SECONDS = 0.1
# Skipping more than this costs more than a few requests that may reach a node with ranges.
_MAX_CHEAP_SKIP_BYTES = 64 << 20
_MAX_IGNORED_RANGES = 2


class RangeWorkers:
    """All worker threads of one download. One thread calls `start` and `stop`."""

    def __init__(
        self,
        progress: DownloadProgress,
        origin: Address,
        *,
        connections: int,
        sessions: SessionPool,
        retry_policy: RetryPolicy,
        throttle: Throttle,
    ) -> None:
        self._progress = progress
        self._shared = _Shared(progress, origin, connections, retry_policy, throttle)
        self._session_pool = sessions
        self._sessions: list[HttpSession] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads: one per connection, but no more than there are incomplete pieces."""
        for i in range(min(self._shared.connections, self._progress.incomplete_count)):
            session = self._session_pool.lend()
            worker = _RangeWorker(self._shared, session)
            thread = threading.Thread(target=worker.run, name=f"fetch-{i}", daemon=True)
            self._sessions.append(session)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads, whatever they wait for. Nothing is written after this returns."""
        self._progress.halt()
        if not self._progress.is_complete:
            for session in self._sessions:
                session.shut_down()
        for thread, session in zip(self._threads, self._sessions, strict=True):
            # One that is connecting cannot be interrupted; its session is shut, so it will not
            # request anything any more.
            while thread.is_alive() and not (session.is_shut and session.is_connecting):
                thread.join(_JOIN_SECONDS)
            if not thread.is_alive():
                self._session_pool.give_back(session)
        self._sessions.clear()


@dataclass(slots=True)
class _Shared:
    """What all workers of a download share."""

    progress: DownloadProgress
    origin: Address
    connections: int
    retry_policy: RetryPolicy
    throttle: Throttle
    redirect_target: str | None = None


class _RangeWorker:
    """One thread with one session."""

    def __init__(self, shared: _Shared, session: HttpSession) -> None:
        self._shared = shared
        self._session = session
        self._progress = shared.progress
        self._throttle = shared.throttle
        self._retries = RetryState(shared.retry_policy, shared.progress.done_bytes)
        self._bytes_per_second: float | None = None
        self._ignored_ranges = 0

    def run(self) -> None:
        """Fetch pieces until the download is complete or halted."""
        while True:
            self._throttle.wait_for_hours(self._progress.halted)
            pieces = self._progress.wait_for_pieces(
                choose_request_bytes(self._bytes_per_second),
                connections=self._shared.connections,
            )
            if not pieces:
                self._progress.end_whole_body()
                return
            try:
                self._try_fetch(pieces)
            finally:
                self._progress.release(pieces)

    def _try_fetch(self, pieces: list[Piece]) -> None:
        try:
            self._fetch(pieces)
        except LinkExpired:
            self._shared.redirect_target = None
            error = SourceUnavailable("the source refuses the links that it redirects to")
            self._wait_or_fail(error)
        except SourceUnavailable as error:
            self._wait_or_fail(error)
        except (SpindllError, CredentialsExpired, ContentChanged) as error:
            self._progress.fail(error)
        except OSError as error:
            self._progress.fail(_translate_disk_error(error))
        except Exception:  # an unexpected error must end the download, not leave it waiting
            logger.exception("a range worker failed")
            self._progress.fail(InternalError("the download failed for an internal reason"))

    def _wait_or_fail(self, error: SourceUnavailable) -> None:
        if self._progress.halted.is_set():
            return
        wait_seconds = self._retries.next_wait_seconds(
            error.retry_after_seconds, done_bytes=self._progress.done_bytes
        )
        if wait_seconds is None:
            self._progress.fail(error)
            return
        logger.info("download will be retried", extra={"seconds": round(wait_seconds, 1)})
        self._progress.wait_reason = f"{error.message}; the download will be retried"
        self._progress.halted.wait(wait_seconds)
        self._progress.wait_reason = None

    def _fetch(self, pieces: list[Piece]) -> None:
        origin, target = self._shared.origin, self._shared.redirect_target
        request = RangeRequest(
            start=pieces[0].next_offset,
            end=pieces[-1].end - 1,
            size_bytes=self._progress.size_bytes,
            validator=self._progress.validator,
            is_direct=target is not None,
            has_secret=target is None and bool(origin.secret_headers),
            refusals=origin.refusals,
        )
        address = Address(target) if target else origin
        with self._session.get(address, build_range_headers(request)) as reply:
            _raise_if_busy(reply, self._shared.retry_policy)
            response = _read_response(reply)
            body = classify_response(request, response)
            # In place, a redirect may need the secret again: only another origin is asked directly.
            if not has_origin(reply.url, origin.url):
                self._shared.redirect_target = reply.url
            self._progress.remember_validator(response.validator)
            if body is BodyKind.PART:
                self._progress.end_whole_body()
                self._write_body(reply, pieces, request.start)
                return
            self._refuse_long_skip(request.start)
            if self._progress.begin_whole_body():
                self._write_body(reply, pieces, 0)
                self._write_rest(reply, pieces)

    def _refuse_long_skip(self, skip_bytes: int) -> None:
        """Raise SourceUnavailable if asking again is cheaper than reading up to the range."""
        self._ignored_ranges += 1
        if skip_bytes > _MAX_CHEAP_SKIP_BYTES and self._ignored_ranges <= _MAX_IGNORED_RANGES:
            raise SourceUnavailable("the source sent the whole file instead of a part of it")

    def _write_body(self, reply: Reply, pieces: list[Piece], offset: int) -> None:
        """Write the pieces from a body that starts at `offset`."""
        started_at, first = time.monotonic(), pieces[0].next_offset
        for piece in pieces:
            self._read(reply, None, offset, piece.next_offset)
            self._read(reply, piece, piece.next_offset, piece.end)
            offset = piece.end
        seconds = max(time.monotonic() - started_at, 1e-3)
        if not self._progress.halted.is_set():
            self._bytes_per_second = (offset - first) / seconds

    def _write_rest(self, reply: Reply, pieces: list[Piece]) -> None:
        """Write all later pieces that are missing, from the same whole body."""
        last = pieces[-1]
        while (piece := self._progress.claim_after(last)) is not None:
            try:
                self._write_body(reply, [piece], last.end)
            finally:
                self._progress.release([piece])
            last = piece

    def _read(self, reply: Reply, piece: Piece | None, start: int, end: int) -> None:
        """Read bytes [start, end) of the file and write them to the piece; None: skip them."""
        offset, throttle, halted = start, self._throttle, self._progress.halted
        stall_detector = StallDetector(self._shared.retry_policy)
        while offset < end:
            data = reply.read_chunk(throttle.limit_read(min(_CHUNK_BYTES, end - offset)))
            if not data:
                raise SourceUnavailable("the source sent fewer bytes than it announced")
            throttle.spend(len(data), halted)
            if halted.is_set():
                return
            if piece is not None:
                self._progress.write(piece, data, offset)
            offset += len(data)
            if stall_detector.is_too_slow_after(len(data)):
                raise SourceUnavailable("the source sends too slowly")


def _read_response(reply: Reply) -> RangeResponse:
    return RangeResponse(
        reply.status,
        reply.header("content-range"),
        reply.content_length,
        reply.header("content-type"),
        find_validator(reply.header("etag"), reply.header("last-modified")),
    )


def _raise_if_busy(reply: Reply, retry_policy: RetryPolicy) -> None:
    if not is_busy(reply.status):
        return
    wait = find_wait_seconds(reply.header, max_seconds=retry_policy.max_retry_after_seconds)
    if wait is not None:
        raise SourceUnavailable(
            f"the source answered HTTP {reply.status}", retry_after_seconds=wait
        )


def _translate_disk_error(error: OSError) -> SpindllError:
    if error.errno == errno.ENOSPC:
        return DiskFull("the disk is full", details={"written": True})
    if error.errno == errno.EDQUOT:
        return DiskFull("the quota of the models folder is used up")
    logger.error("writing a download failed", extra={"errno": error.errno})
    return InternalError("writing the download failed")
