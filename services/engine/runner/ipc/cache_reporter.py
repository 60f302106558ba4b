"""Report to the front what has happened to entries of the prompt cache."""

from __future__ import annotations

import threading

from services.engine.messages.reports import HEARTBEAT_SECONDS, CacheReport
from services.engine.runner.ipc.report_writer import ReportWriter
from services.engine.runner.kvcache.store import PromptStore
from services.shared.periodic import start_periodic

_CLOSE_SECONDS = 1.0  # to write what waits: the front kills a runner so long after its drain time


class CacheReporter:
    """Sends the events of a store, on a thread, once a second until `close`."""

    def __init__(self, report_writer: ReportWriter, store: PromptStore) -> None:
        self._report_writer = report_writer
        self._store = store
        self._sending = threading.Lock()  # one thread at a time takes events
        self._stopped = start_periodic(self._send, HEARTBEAT_SECONDS, name="cache-reporter")

    def close(self) -> None:
        """Close the store, which writes what waits within a second, and send the last events."""
        self._stopped.set()
        self._store.close(_CLOSE_SECONDS)
        self._send()

    def _send(self) -> None:
        with self._sending:
            if events := self._store.take_events():
                self._report_writer.send(CacheReport(events))
