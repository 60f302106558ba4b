"""`pulls`: the downloads of the server, and what can be done with one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from services.cli import formatting
from services.cli.api_client import ApiClient, JsonObject
from services.cli.connection import find_connection
from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.tables import add_row, new_table, print_table

SHOWN_STATES = ("running", "queued", "paused", "failed")
_ID_CHARS = 8


def list_pulls(paths: StackPaths, *, show_all: bool) -> None:
    """Print one line per download, the newest first, with why it waits or has failed."""
    with ApiClient(find_connection(paths)) as api:
        jobs = _fetch_jobs(api)
    table = new_table("ID", "MODEL", "STATE", "DONE", "SPEED", "LEFT", "WHY")
    for job in jobs:
        if show_all or job["state"] in SHOWN_STATES:
            add_row(table, format_row(job, now=time.time()))
    print_table(table, "no downloads; `pulls --all` shows those that are done")


def act(paths: StackPaths, text: str, action: str) -> None:
    """Pause, resume, cancel or retry a job. Raises CommandError when its state forbids it."""
    with ApiClient(find_connection(paths)) as api:
        job = find_job(_fetch_jobs(api), text)
        job = api.post(f"/v1/pulls/{job['id']}/{action}", {})
    print(formatting.printable(f"{job['model']}: {describe_state(job, now=time.time())}"))


def set_priority(paths: StackPaths, text: str, priority: int) -> None:
    """Set the priority of a job."""
    with ApiClient(find_connection(paths)) as api:
        job = find_job(_fetch_jobs(api), text)
        job = api.post(f"/v1/pulls/{job['id']}/priority", {"priority": priority})
    print(f"{job['model']}: priority {job['priority']}")


def purge(paths: StackPaths, text: str | None) -> None:
    """Forget an ended job, or all failed ones, and remove the bytes that they left."""
    with ApiClient(find_connection(paths)) as api:
        if text is None:
            done = api.delete("/v1/pulls?state=failed")
            removed = f"{done['deleted']} failed downloads"
        else:
            job = find_job(_fetch_jobs(api), text)
            if job["state"] not in ("done", "failed", "cancelled"):
                raise CommandError(f"{job['model']} is {job['state']}; cancel it first")
            done = api.delete(f"/v1/pulls/{job['id']}")
            removed = str(job["model"])
    print(f"forgot {removed}, {formatting.format_size(done.get('freed_bytes') or 0)} freed")


def find_job(jobs: Sequence[JsonObject], text: str) -> JsonObject:
    """The job that a text names: the start of an id, or a model's newest job.

    Raises CommandError when there is none, or when several ids start like this.
    """
    by_id = [job for job in jobs if str(job["id"]).startswith(text.lower())]
    if len(by_id) > 1:
        raise CommandError(f"several downloads have ids that start with {text!r}")
    names = {text.lower(), f"{text.lower()}:latest"}
    found = by_id or [job for job in jobs if str(job["model"]).lower() in names]
    if not found:
        raise CommandError(
            f"no download has the id or the model {text!r}; `pulls --all` lists them"
        )
    return found[0]


def format_row(job: JsonObject, *, now: float) -> list[str]:
    """The cells of a job; a missing value is a dash."""
    done, total = job.get("downloaded_bytes") or 0, job.get("total_bytes")
    speed, left = job.get("bytes_per_second"), job.get("eta_seconds")
    is_running = job["state"] == "running"
    return [
        str(job["id"])[:_ID_CHARS],
        str(job["model"]),
        str(job["state"]),
        f"{done / total:.0%} of {formatting.format_size(total)}" if total else "-",
        f"{formatting.format_size(speed)}/s" if is_running and speed else "-",
        formatting.format_duration(left) if is_running and left is not None else "-",
        describe_reason(job, now=now) or "-",
    ]


def describe_state(job: JsonObject, *, now: float) -> str:
    """The state with its reason, as `queued: the source does not answer`."""
    requested = {"pause": "pausing", "cancel": "cancelling"}.get(job.get("requested") or "")
    reason = describe_reason(job, now=now)
    return (requested or str(job["state"])) + (f": {reason}" if reason else "")


def describe_reason(job: JsonObject, *, now: float) -> str:
    """Why a job waits or has failed, and when it is tried again."""
    if job["state"] == "failed":
        return str(job.get("error") or "")
    note, not_before = str(job.get("note") or ""), job.get("not_before")
    if not_before is None:
        return note
    return f"{note}; next attempt in {formatting.format_duration(max(0.0, not_before - now))}"


def _fetch_jobs(api: ApiClient) -> list[JsonObject]:
    jobs: list[JsonObject] = api.get("/v1/pulls?limit=1000")["data"]
    return jobs
