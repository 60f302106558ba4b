"""The threads of a download: each requests the range of a piece, writes it, and handles failures.

The target of a redirect is remembered. The workers request it directly, without credentials, until
it refuses.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading

from services.puller.download.pieces import Piece
from services.puller.download.progress import DownloadProgress
from services.puller.download.retry import RetryPolicy, RetryState, StallDetector
from services.puller.download.throttle import Throttle
from services.puller.transport.address import Address
from services.puller.transport.http_client import HttpSession, Reply, parse_retry_after
from services.puller.transport.range_response import (
    BodyKind,
    CredentialsExpired,
    LinkExpired,
    RangeRequest,
    RangeResponse,
    build_range_headers,
    classify_response,
)
from services.shared.errors import DiskFull, InternalError, SourceUnavailable, SpindllError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


class RangeWorkers:
    """All worker threads of one download. One thread calls `start` and `stop`."""

    def __init__(
        self,
        progress: DownloadProgress,
        origin: Address,
        *,
        connections: int,
        retry_policy: RetryPolicy,
        throttle: Throttle,
    ) -> None:
        self._progress = progress
        self._origin = origin
        self._connections = connections
        self._retry_policy = retry_policy
        self._throttle = throttle
        self._redirect_target: str | None = None
        self._sessions: list[HttpSession] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads: one per connection, but no more than there are incomplete pieces."""
        for i in range(min(self._connections, self._progress.incomplete_count)):
            session = HttpSession(timeout_seconds=self._retry_policy.timeout_seconds)
            thread = threading.Thread(
                target=self._fetch_pieces, args=(session,), name=f"fetch-{i}", daemon=True
            )
            self._sessions.append(session)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads, whatever they wait for. Nothing is written after this returns."""
        self._progress.halt()
        for session in self._sessions:
            session.shut_down()
        for thread in self._threads:
            thread.join()

    def _fetch_pieces(self, session: HttpSession) -> None:
        retries = RetryState(self._retry_policy, self._progress.done_bytes)
        with contextlib.closing(session):
            while True:
                self._throttle.wait_for_hours(self._progress.halted)
                piece = self._progress.wait_for_piece()
                if piece is None:
                    return
                try:
                    self._try_piece(session, piece, retries)
                finally:
                    self._progress.release(piece)

    def _try_piece(self, session: HttpSession, piece: Piece, retries: RetryState) -> None:
        try:
            self._fetch(session, piece)
        except LinkExpired:
            self._redirect_target = None
            error = SourceUnavailable("the source refuses the links that it redirects to")
            self._wait_or_fail(error, retries)
        except SourceUnavailable as error:
            self._wait_or_fail(error, retries)
        except (SpindllError, CredentialsExpired) as error:
            self._progress.fail(error)
        except OSError as error:
            self._progress.fail(_translate_disk_error(error))
        except Exception:  # an unexpected error must end the download, not leave it waiting
            logger.exception("a range worker failed")
            self._progress.fail(InternalError("the download failed for an internal reason"))

    def _wait_or_fail(self, error: SourceUnavailable, retries: RetryState) -> None:
        if self._progress.halted.is_set():
            return
        wait_seconds = retries.next_wait_seconds(
            error.retry_after_seconds, done_bytes=self._progress.done_bytes
        )
        if wait_seconds is None:
            self._progress.fail(error)
            return
        logger.info("download will be retried", extra={"seconds": round(wait_seconds, 1)})
        self._progress.halted.wait(wait_seconds)

    def _fetch(self, session: HttpSession, piece: Piece) -> None:
        target = self._redirect_target
        request = RangeRequest(
            start=piece.start + piece.done,
            end=piece.start + piece.size - 1,
            size_bytes=self._progress.size_bytes,
            etag=self._progress.etag,
            is_direct=target is not None,
            has_secret=target is None and bool(self._origin.secret_headers),
        )
        address = Address(target) if target else self._origin
        with session.get(address, build_range_headers(request)) as reply:
            _raise_if_busy(reply, self._retry_policy)
            etag = reply.header("etag")
            body = classify_response(
                request,
                RangeResponse(
                    reply.status, reply.header("content-range"), reply.content_length, etag
                ),
            )
            if reply.url != self._origin.url:
                self._redirect_target = reply.url
            if body is BodyKind.PART:
                self._progress.remember_etag(etag)
                self._write_range(reply, piece, request.start, request.end + 1)
            elif body is BodyKind.CHANGED:
                self._progress.restart_for_new_version(piece, etag)
            elif self._progress.restart_as_whole_file(piece):
                self._write_whole_file(reply)

    def _write_whole_file(self, reply: Reply) -> None:
        whole = self._progress.claim_whole_file()
        if whole is None:
            return
        try:
            self._write_range(reply, whole, 0, self._progress.size_bytes)
        finally:
            self._progress.release(whole)

    def _write_range(self, reply: Reply, piece: Piece, start: int, end: int) -> None:
        offset, throttle, halted = start, self._throttle, self._progress.halted
        stall_detector = StallDetector(self._retry_policy)
        while offset < end:
            data = reply.read_chunk(throttle.limit_read(min(_CHUNK_BYTES, end - offset)))
            if not data:
                raise SourceUnavailable("the source sent fewer bytes than it announced")
            throttle.spend(len(data), halted)
            if halted.is_set() or not self._progress.write(piece, data, offset):
                return
            offset += len(data)
            if stall_detector.is_too_slow_after(len(data)):
                raise SourceUnavailable("the source sends too slowly")


def _raise_if_busy(reply: Reply, retry_policy: RetryPolicy) -> None:
    wait = parse_retry_after(reply, max_seconds=retry_policy.max_retry_after_seconds)
    if wait is not None and (reply.status == 429 or reply.status >= 500):
        raise SourceUnavailable(
            f"the source answered HTTP {reply.status}", retry_after_seconds=wait
        )


def _translate_disk_error(error: OSError) -> SpindllError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full", details={"written": True})
    logger.error("writing a download failed", extra={"errno": error.errno})
    return InternalError("writing the download failed")
