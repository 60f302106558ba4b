"""Provide the first models: the tiny model, and the models in the settings.

Each is recorded in a file of the models folder once it is imported or queued. A model that is
deleted later therefore does not come back at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from services.puller.importing.local_files import import_file, import_folder
from services.shared.errors import SpindllError
from services.shared.model_name import ModelName
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import new_job
from services.shared.store import durable
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)

TINY = "tiny"
_RECORD_FILE = "first-start.json"


class FirstStart:
    """Idempotent: called at every start, and does for each model what was not done before."""

    def __init__(self, store: ModelStore, commands: JobCommands, job_queue: JobQueue) -> None:
        self._store = store
        self._commands = commands
        self._job_queue = job_queue
        self._record_path = store.layout.root / _RECORD_FILE

    def import_tiny(self, path: Path | None) -> None:
        """Import the tiny model, unless it was imported before. An unusable file only warns."""
        if path is None or TINY in self._read_record():
            return
        try:
            import_model = import_folder if path.is_dir() else import_file
            import_model(self._store, path, TINY)
        except (SpindllError, OSError):
            logger.warning("the tiny model was not imported", exc_info=True)
            return
        self._record(TINY)

    def queue_pulls(self, models: Iterable[str]) -> None:
        """Queue a pull of each model, unless it was queued before."""
        for text in models:
            try:
                parsed = ModelName.parse(text)
                name = str(parsed)
            except SpindllError as error:
                # Without a query, which may hold a secret.
                extra = {"model": text.partition("?")[0], "reason": error.message}
                logger.warning("not a valid model name", extra=extra)
                continue
            if name not in self._read_record():
                job, is_new = self._commands.create(new_job(name, address=parsed.address))
                if is_new:
                    self._job_queue.send(job)
                self._record(name)

    def _read_record(self) -> list[str]:
        try:
            return msgspec.json.decode(self._record_path.read_bytes(), type=list[str])
        except (OSError, msgspec.DecodeError):
            return []

    def _record(self, name: str) -> None:
        durable.make_folder(self._record_path.parent, below=self._record_path.parent)
        record = msgspec.json.encode([*self._read_record(), name])
        durable.move(durable.write_beside(self._record_path, record), self._record_path)
