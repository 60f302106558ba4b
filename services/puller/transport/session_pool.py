"""Sessions that outlive one file: the next file reuses their connections and TLS handshakes."""

from __future__ import annotations

import threading

from services.puller.transport.http_client import HttpSession


class SessionPool:
    """The idle sessions of one process. Thread-safe; a session has one user at a time."""

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()  # guards _idle
        self._idle: list[HttpSession] = []

    def lend(self) -> HttpSession:
        """An idle session, else a new one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return HttpSession(timeout_seconds=self._timeout_seconds)

    def give_back(self, session: HttpSession) -> None:
        """Keep a session for the next user, unless it was shut down."""
        if session.is_shut:
            session.close()
            return
        with self._lock:
            self._idle.append(session)

    def close(self) -> None:
        """Close the connections of all idle sessions."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()
