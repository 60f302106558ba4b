"""`pull`: start a download and show its progress.

The job belongs to the server, so ending this command does not stop it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from services.cli.api_client import ApiClient, JsonObject
from services.cli.commands.pulls import describe_state
from services.cli.connection import find_connection
from services.cli.errors import CommandError
from services.cli.formatting import printable
from services.cli.paths import StackPaths

POLL_SECONDS = 0.25
ENDED = ("done", "failed", "cancelled")


def pull(paths: StackPaths, name: str, *, detach: bool) -> None:
    """Start a pull job and wait until it ends. Raises CommandError when it fails.

    Ctrl-C ends the command, not the job.
    """
    with ApiClient(find_connection(paths)) as api:
        job = api.post("/v1/pulls", {"model": name})
        if detach:
            print(f"downloading {job['model']} (job {job['id']})", file=sys.stderr)
            return
        try:
            job = _watch(api, job)
        except KeyboardInterrupt:
            print(
                "\nthe download continues in the background;"
                f" to see its progress: spindll pull {name}"
            )
            return
    _print_result(job)


def _print_result(job: JsonObject) -> None:
    if job["state"] != "done":
        raise CommandError(f"{job['model']}: {job.get('error') or job['state']}")
    for warning in job.get("warnings") or ():
        print(printable(f"warning: {warning}"), file=sys.stderr)
    print(f"{job['model']} is ready")


def _watch(api: ApiClient, job: JsonObject) -> JsonObject:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        shown: dict[str, TaskID] = {}
        reported: tuple[object, object] = (None, None)
        for now in _poll(api, job):
            job = now
            if reported != (job["state"], job.get("note")):
                reported = (job["state"], job.get("note"))
                if line := state_line(job, now=time.time()):
                    bars.console.print(Text(printable(line)))
            for label, done, total in progress_rows(job):
                if label not in shown:
                    shown[label] = bars.add_task(printable(label), total=total)
                bars.update(shown[label], completed=done, total=total)
    return job


def _poll(api: ApiClient, job: JsonObject) -> Iterator[JsonObject]:
    while True:
        yield job
        if job["state"] in ENDED:
            return
        time.sleep(POLL_SECONDS)
        job = api.get(f"/v1/pulls/{job['id']}")


def state_line(job: JsonObject, *, now: float) -> str | None:
    """Why no bytes arrive, for the lines above the progress bars; None while they do."""
    if job["state"] == "paused":
        return f"paused; `pulls resume {str(job['id'])[:8]}` continues it"
    if job.get("note") and job["state"] not in ENDED:
        return describe_state(job, now=now)
    return "queued; other downloads run first" if job["state"] == "queued" else None


def progress_rows(job: JsonObject) -> list[tuple[str, int, int | None]]:
    """The progress bars as (label, downloaded bytes, total bytes).

    One bar per file, or one for the job while its files are unknown.
    """
    files = job.get("files") or []
    if not files:
        return [(job["model"], job.get("downloaded_bytes") or 0, job.get("total_bytes"))]
    return [(_label(f), f["downloaded_bytes"], f["total_bytes"]) for f in files]


def _label(file: JsonObject) -> str:
    digest = (file.get("digest") or "").removeprefix("sha256:")[:12]
    name = str(file["path"])
    return f"{name} {digest}" if digest and digest not in name else name
