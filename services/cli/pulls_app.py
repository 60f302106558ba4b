"""The `pulls` commands: list the downloads, and pause, resume, cancel, retry, reorder or purge one.

A job is named by the first characters of its id, or by its model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.data_option import Data, find_paths

app = typer.Typer(
    name="pulls",
    help="List the downloads and say why each waits; pause, resume, cancel or retry one.",
    invoke_without_command=True,
)

Job = Annotated[str, typer.Argument(help="The first characters of a job's id, or its model.")]


@app.callback()
def list_pulls(
    context: typer.Context,
    data: Data,
    *,
    show_all: Annotated[
        bool, typer.Option("--all", "-a", help="Show done and cancelled downloads too.")
    ] = False,
) -> None:
    """List the downloads that have not ended, and those that failed."""
    if context.invoked_subcommand is None:
        from services.cli.commands import pulls as command

        command.list_pulls(find_paths(data), show_all=show_all)


@app.command()
def pause(job: Job, data: Data) -> None:
    """Stop a download and keep its bytes."""
    _act(data, job, "pause")


@app.command()
def resume(job: Job, data: Data) -> None:
    """Continue a paused download, or try one that waits now."""
    _act(data, job, "resume")


@app.command()
def cancel(job: Job, data: Data) -> None:
    """End a download and remove its bytes."""
    _act(data, job, "cancel")


@app.command()
def retry(job: Job, data: Data) -> None:
    """Queue a failed or cancelled download again; bytes that are still there are kept."""
    _act(data, job, "retry")


@app.command()
def priority(
    job: Job,
    value: Annotated[int, typer.Argument(help="-1000 to 1000; higher goes first.")],
    data: Data,
) -> None:
    """Set the priority of a queued download."""
    from services.cli.commands import pulls as command

    command.set_priority(find_paths(data), job, value)


@app.command()
def purge(
    data: Data,
    job: Annotated[
        str | None, typer.Argument(help="A job that has ended; by default all failed ones.")
    ] = None,
) -> None:
    """Forget failed downloads and remove the bytes that they left."""
    from services.cli.commands import pulls as command

    command.purge(find_paths(data), job)


def _act(data: Path, job: str, action: str) -> None:
    from services.cli.commands import pulls as command

    command.act(find_paths(data), job, action)
