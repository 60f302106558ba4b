"""`update`: pull models again of which their source has a newer version."""

from __future__ import annotations

import sys

import typer

from services.cli import formatting
from services.cli.api_client import ApiClient, JsonObject, model_path
from services.cli.connection import find_connection
from services.cli.errors import CommandError
from services.cli.paths import StackPaths


def update(paths: StackPaths, name: str | None, *, every: bool, check_only: bool) -> None:
    """Print a line for each model; with `every`, of all that were pulled under their name.

    Exit status 1 when a source could not be asked or no longer has the model.
    """
    if (name is None) is not every:
        raise CommandError("give the name of a model, or --all")
    is_complete = True
    with ApiClient(find_connection(paths)) as api:
        names = [name] if name is not None else find_updatable(api.get("/v1/models")["data"])
        for model in names:
            try:
                answer = api.post(f"{model_path(model)}/update", {"check_only": check_only})
            except CommandError as error:
                if not every:
                    raise
                answer = {"id": model, "note": error.message}
            is_complete = is_complete and not answer.get("note")
            print(formatting.printable(describe_update(answer)), flush=True)
    if not names:
        print("no model was pulled from a source with versions", file=sys.stderr)
    if not is_complete:
        raise typer.Exit(1)


def find_updatable(models: list[JsonObject]) -> list[str]:
    """The models that a pull of their own name renews: neither imports nor copies."""
    return [str(m["id"]) for m in models if m.get("pulled_name") == m["id"]]


def describe_update(answer: JsonObject) -> str:
    """The line about one model."""
    if answer.get("note"):
        return f"{answer['id']}: {answer['note']}"
    if not answer["newer"]:
        return f"{answer['id']}: up to date"
    size = formatting.format_size(answer["download_bytes"])
    job = answer.get("pull")
    queued = f"; downloading (job {str(job['id'])[:8]})" if job else ""
    return f"{answer['id']}: a newer version is there, {size} to download{queued}"
