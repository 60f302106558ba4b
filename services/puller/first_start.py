"""What the first start brings: the tiny model, and the models the operator named.

Each is noted in a file of the models folder once it was done or queued, so that deleting it later
is final: a second start brings nothing back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from services.puller.importing.local_files import import_file
from services.shared.errors import SpindllError
from services.shared.model_name import ModelName
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import new_job
from services.shared.store import durable
from services.shared.store.model_store import ModelStore

logger = logging.getLogger(__name__)

TINY = "tiny"
_NOTES = "first-start.json"


class FirstStart:
    """Idempotent; called at every start."""

    def __init__(self, store: ModelStore, orders: JobCommands, tickets: JobQueue) -> None:
        self._store = store
        self._orders = orders
        self._tickets = tickets
        self._notes = store.layout.root / _NOTES

    def import_tiny(self, path: Path | None) -> None:
        """Import the tiny model, unless it was before. A file that is no model only warns."""
        if path is None or TINY in self._done():
            return
        try:
            import_file(self._store, path, TINY)
        except (SpindllError, OSError):
            logger.warning("the tiny model was not imported", exc_info=True)
            return
        self._note(TINY)

    def queue(self, models: Iterable[str]) -> None:
        """Queue a pull of each model, unless it was queued before."""
        for text in models:
            try:
                name = str(ModelName.parse(text))
            except SpindllError as error:
                logger.warning("not a model name", extra={"model": text, "reason": error.message})
                continue
            if name not in self._done():
                job, is_new = self._orders.create(new_job(name))
                if is_new:
                    self._tickets.send(job)
                self._note(name)

    def _done(self) -> list[str]:
        try:
            return msgspec.json.decode(self._notes.read_bytes(), type=list[str])
        except (OSError, msgspec.DecodeError):
            return []

    def _note(self, name: str) -> None:
        durable.make_folder(self._notes.parent, below=self._notes.parent)
        done = msgspec.json.encode([*self._done(), name])
        durable.move(durable.write_beside(self._notes, done), self._notes)
