"""The threads that fetch: each asks for a piece's range, writes what comes, and copes with failure.

A redirect's target is remembered and asked directly, without credentials, until it refuses.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading

from services.puller.download.pieces import Piece
from services.puller.download.progress import Book
from services.puller.download.retry import Limits, Patience, SlowWatch
from services.puller.download.throttle import Pace
from services.puller.transport.http_client import Address, Reply, Session, retry_after_seconds
from services.puller.transport.range_response import (
    AccessExpired,
    Answered,
    Asked,
    LinkExpired,
    Meaning,
    judge,
    request_headers,
)
from services.shared.errors import DiskFull, InternalError, SourceUnavailable, SpindllError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


class Fetchers:
    """All threads of one download. `start` and `stop` belong to the caller's thread."""

    def __init__(self, book: Book, origin: Address, limits: Limits, pace: Pace) -> None:
        self._book = book
        self._origin = origin
        self._limits = limits
        self._pace = pace
        self._direct: str | None = None
        self._sessions: list[Session] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to fetch; no more threads than pieces are missing."""
        for i in range(min(self._limits.connections, self._book.n_missing)):
            session = Session(timeout_seconds=self._limits.timeout_seconds)
            thread = threading.Thread(
                target=self._fetch_pieces, args=(session,), name=f"fetch-{i}", daemon=True
            )
            self._sessions.append(session)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End them, whatever they wait for. Nothing is written after it returned."""
        self._book.halt()
        for session in self._sessions:
            session.shut_down()
        for thread in self._threads:
            thread.join()

    def _fetch_pieces(self, session: Session) -> None:
        patience = Patience(self._limits, self._book.done_bytes)
        with contextlib.closing(session):
            while True:
                self._pace.await_hours(self._book.halted)
                piece = self._book.next_piece()
                if piece is None:
                    return
                try:
                    self._try_piece(session, piece, patience)
                finally:
                    self._book.give_back(piece)

    def _try_piece(self, session: Session, piece: Piece, patience: Patience) -> None:
        try:
            self._fetch(session, piece)
        except LinkExpired:
            self._direct = None
            self._cope(SourceUnavailable("the source refuses its own links"), patience)
        except SourceUnavailable as error:
            self._cope(error, patience)
        except (SpindllError, AccessExpired) as error:
            self._book.fail(error)
        except OSError as error:
            self._book.fail(_disk_error(error))
        except Exception:  # a download must end with its fetcher, not wait for it
            logger.exception("a fetcher failed")
            self._book.fail(InternalError("the download failed for an internal reason"))

    def _cope(self, error: SourceUnavailable, patience: Patience) -> None:
        if self._book.halted.is_set():
            return
        wait_seconds = patience.wait_seconds(
            error.retry_after_seconds, done_bytes=self._book.done_bytes
        )
        if wait_seconds is None:
            self._book.fail(error)
            return
        logger.info("trying a download again", extra={"seconds": round(wait_seconds, 1)})
        self._book.halted.wait(wait_seconds)

    def _fetch(self, session: Session, piece: Piece) -> None:
        direct = self._direct
        asked = Asked(
            start=piece.start + piece.done,
            end=piece.start + piece.size - 1,
            size_bytes=self._book.size_bytes,
            etag=self._book.etag,
            is_direct=direct is not None,
            has_secret=direct is None and bool(self._origin.secret_headers),
        )
        address = Address(direct) if direct else self._origin
        with session.get(address, request_headers(asked)) as reply:
            _refuse_if_busy(reply, self._limits)
            etag = reply.header("etag")
            meaning = judge(
                asked,
                Answered(reply.status, reply.header("content-range"), reply.content_length, etag),
            )
            if reply.url != self._origin.url:
                self._direct = reply.url
            if meaning is Meaning.PART:
                self._book.learn_etag(etag)
                self._save(reply, piece, asked.start, asked.end + 1)
            elif meaning is Meaning.CHANGED:
                self._book.start_over_changed(piece, etag)
            elif self._book.start_over_whole(piece):
                self._save_whole(reply)

    def _save_whole(self, reply: Reply) -> None:
        whole = self._book.claim_whole()
        if whole is None:
            return
        try:
            self._save(reply, whole, 0, self._book.size_bytes)
        finally:
            self._book.give_back(whole)

    def _save(self, reply: Reply, piece: Piece, start: int, end: int) -> None:
        offset, pace, halted = start, self._pace, self._book.halted
        slow = SlowWatch(self._limits)
        while offset < end:
            data = reply.read_some(pace.chunk_bytes(min(_CHUNK_BYTES, end - offset)))
            if not data:
                raise SourceUnavailable("the source sent less than it announced")
            pace.spend(len(data), halted)
            if halted.is_set() or not self._book.write(piece, data, offset):
                return
            offset += len(data)
            if slow.is_too_slow(len(data)):
                raise SourceUnavailable("the source sends too slowly")


def _refuse_if_busy(reply: Reply, limits: Limits) -> None:
    wait = retry_after_seconds(reply, at_most=limits.longest_retry_after_seconds)
    if wait is not None and (reply.status == 429 or reply.status >= 500):
        raise SourceUnavailable(
            f"the source answered HTTP {reply.status}", retry_after_seconds=wait
        )


def _disk_error(error: OSError) -> SpindllError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full", details={"written": True})
    logger.error("writing a download failed", extra={"errno": error.errno})
    return InternalError("writing the download failed")
