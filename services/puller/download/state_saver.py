"""Save the resume state of a download, and sync its bytes, in a thread of their own.

A sync of the bytes of half a minute takes many seconds on a slow disk, in which the download must
still answer a pause or a cancel.
"""

from __future__ import annotations

import logging
import threading
import time

from services.puller.download.progress import DownloadProgress

logger = logging.getLogger(__name__)

_SAVE_SECONDS = 0.2
_SYNC_SECONDS = 30.0
_STOP_SECONDS = 0.5


class StateSaver:
    """Call `start` and `stop` once each."""

    def __init__(self, progress: DownloadProgress) -> None:
        self._progress = progress
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="save", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A sync in progress is left behind; it changes nothing any more."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        sync_at = time.monotonic() + _SYNC_SECONDS
        while not self._stopping.wait(_SAVE_SECONDS):
            try:
                if time.monotonic() >= sync_at:
                    self._progress.sync()
                    if self._stopping.is_set():
                        return
                    self._progress.save(is_durable=True)
                    sync_at = time.monotonic() + _SYNC_SECONDS
                self._progress.save()
            except OSError as error:
                logger.warning("resume state was not saved", extra={"errno": error.errno})
