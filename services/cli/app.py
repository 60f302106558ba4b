"""The commands and their options.

Each command imports its module in commands/ when it runs, which keeps `--help` fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli import cache_app, keys_app, pulls_app
from services.cli.data_option import Data, find_paths
from services.cli.options import StackOptions

app = typer.Typer(
    name="spindll",
    help="A self-hosted LLM appliance: an OpenAI-compatible API for models on this computer.",
    epilog="`./spindll setup [--dev]` makes .venv.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(keys_app.app)
app.add_typer(pulls_app.app)
app.add_typer(cache_app.app)

Name = Annotated[str, typer.Argument(help="A model, such as qwen3:0.6b or owner/repo:Q4_K_M.")]


@app.command()
def up(
    data: Data,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port.")] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Public gRPC port; 0 turns it off.")
    ] = 50051,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Number of api processes.", show_default="by number of cores"
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="SPINDLL_DRAIN_SECONDS",
            help="Seconds that running answers get to finish when the stack stops.",
        ),
    ] = 10.0,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Run in the background: return when the stack is ready."
        ),
    ] = False,
) -> None:
    """Start the stack on this computer: Redis, engine, puller and api."""
    from services.cli.commands import up as command

    options = StackOptions(
        data_dir=data.expanduser().absolute(),
        host=host,
        port=port,
        grpc_port=grpc_port,
        workers=workers,
        drain_seconds=drain_seconds,
    )
    command.up(options, detach=detach)


@app.command()
def down(data: Data) -> None:
    """Stop the stack and wait until all its processes have ended."""
    from services.cli.commands import down as command

    command.down(find_paths(data))


@app.command()
def status(data: Data) -> None:
    """Show the state of each service. Exit status 1 if a chat would not succeed."""
    from services.cli.commands import status as command

    command.status(find_paths(data))


@app.command()
def logs(
    data: Data,
    service: Annotated[
        str | None,
        typer.Argument(help="redis, engine, puller, api or supervisor; by default all."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Number of lines to show of each log.")
    ] = 50,
) -> None:
    """Show the logs of the services."""
    from services.cli.commands import logs as command

    command.logs(find_paths(data), service, lines=lines, follow=follow)


@app.command()
def pull(
    name: Name,
    data: Data,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Start the download and return.")
    ] = False,
) -> None:
    """Download a model and show the progress. Ctrl-C does not stop the download."""
    from services.cli.commands import pull as command

    command.pull(find_paths(data), name, detach=detach)


@app.command()
def search(
    query: Annotated[
        str, typer.Argument(help="Part of a model's name, or an exact Ollama name:tag.")
    ],
    data: Data,
    limit: Annotated[int, typer.Option(min=1, max=50, help="Maximum number of results.")] = 20,
    format: Annotated[  # noqa: A002  the option's name
        Literal["gguf", "mlx"] | None,
        typer.Option(help="Only this format.", show_default="what suits the platform"),
    ] = None,
    sort: Annotated[
        Literal["downloads", "size", "name"], typer.Option(help="Sort order of the results.")
    ] = "downloads",
) -> None:
    """Search for models to pull, and show whether they would fit this computer."""
    from services.cli.commands import search as command

    command.search(find_paths(data), query, limit=limit, format=format, sort=sort)


@app.command(name="import")
def import_models(
    data: Data,
    path: Annotated[
        Path | None, typer.Argument(help="A GGUF file, or a folder with a model.")
    ] = None,
    ollama: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Import all models of an Ollama store.")
    ] = None,
    hf: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Import all models of a Hugging Face cache."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the imported model.", show_default="from the file's name"),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the files instead of linking to them.")
    ] = False,
) -> None:
    """Import models from this computer; the files are linked, not copied, where possible."""
    from services.cli.commands import import_ as command

    command.import_models(find_paths(data), path, ollama=ollama, hf=hf, name=name, copy=copy)


@app.command(name="list")
def list_models(data: Data) -> None:
    """List the stored models."""
    from services.cli.commands import models as command

    command.list_models(find_paths(data))


@app.command()
def show(name: Name, data: Data) -> None:
    """Show what is known about a stored model, its warnings first."""
    from services.cli.commands import models as command

    command.show(find_paths(data), name)


@app.command()
def cp(
    source: Name,
    target: Annotated[str, typer.Argument(help="The other name.")],
    data: Data,
) -> None:
    """Give a model another name too; both share the files."""
    from services.cli.commands import models as command

    command.copy(find_paths(data), source, target)


@app.command()
def update(
    data: Data,
    name: Annotated[str | None, typer.Argument(help="A model; or give --all.")] = None,
    every: Annotated[
        bool, typer.Option("--all", "-a", help="All models that were pulled.")
    ] = False,
    check_only: Annotated[
        bool, typer.Option("--check", help="Only say so; download nothing.")
    ] = False,
) -> None:
    """Ask the source of a model whether it has a newer version, and download that."""
    from services.cli.commands import update as command

    command.update(find_paths(data), name, every=every, check_only=check_only)


@app.command()
def rm(name: Name, data: Data) -> None:
    """Delete a model and free its disk space."""
    from services.cli.commands import models as command

    command.remove(find_paths(data), name)


@app.command()
def ps(data: Data) -> None:
    """List the loaded models and their requests."""
    from services.cli.commands import models as command

    command.loaded(find_paths(data))


@app.command()
def run(
    name: Name,
    data: Data,
    prompt: Annotated[
        str | None, typer.Argument(help="The user message; by default read from stdin.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum length of the answer in tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Sampling temperature; 0 is greedy.")
    ] = None,
) -> None:
    """Send one message to a model and print the answer while it is generated."""
    from services.cli.commands import run as command

    command.run(
        find_paths(data),
        name,
        prompt,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
    )
