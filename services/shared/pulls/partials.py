"""Remove the bytes that a job has downloaded but will not use."""

from __future__ import annotations

from services.shared.pulls.job import PullJob
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore


def remove_partials(store: ModelStore, job_store: JobStore, job: PullJob) -> int:
    """Remove the partial files of a job that has ended; the freed bytes.

    Files that a job in flight downloads too, or will continue, stay.
    """
    others = {
        file.digest
        for other in job_store.list_in_flight()
        if other.id != job.id
        for file in other.files
    }
    return store.remove_partials({f.digest for f in job.files if f.digest} - others)
