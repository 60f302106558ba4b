"""The commands and their options. Each hands over to its module in commands/, imported when used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.shared.data_dir import default_data_dir

app = typer.Typer(
    name="spindll",
    help="A self-hosted LLM appliance: OpenAI-compatible answers from models on this computer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="SPINDLL_DATA_DIR",
        default_factory=default_data_dir,
        show_default="the platform's data folder",
        help="Where models, keys and logs live.",
    ),
]
Name = Annotated[str, typer.Argument(help="A model, such as qwen3:0.6b or owner/repo:Q4_K_M.")]


@app.command()
def up(
    data: Data,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port.")] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Public gRPC port; 0: none.")
    ] = 50051,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes of the api.", show_default="by cores"),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="SPINDLL_DRAIN_SECONDS",
            help="How long running answers may take to finish on a stop.",
        ),
    ] = 10.0,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready; `down` stops it.")
    ] = False,
) -> None:
    """Start Redis, engine, puller and api on this computer."""
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
    """Stop the stack and wait until nothing of it is left."""
    from services.cli.commands import down as command

    command.down(_paths(data))


@app.command()
def status(data: Data) -> None:
    """Show what runs, and whether a chat would succeed. Exit status 1 when not."""
    from services.cli.commands import status as command

    command.status(_paths(data))


@app.command()
def logs(
    data: Data,
    service: Annotated[
        str | None, typer.Argument(help="redis, engine, puller, api or supervisor; all if absent.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log.")] = 50,
) -> None:
    """Show the services' logs."""
    from services.cli.commands import logs as command

    command.logs(_paths(data), service, lines=lines, follow=follow)


@app.command()
def pull(
    name: Name,
    data: Data,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Only start the download.")
    ] = False,
) -> None:
    """Download a model; shows progress. Ctrl-C leaves it downloading."""
    from services.cli.commands import pull as command

    command.pull(_paths(data), name, detach=detach)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words of a name, or an exact Ollama name:tag.")],
    data: Data,
    limit: Annotated[int, typer.Option(min=1, max=50, help="Most lines.")] = 20,
    format: Annotated[  # noqa: A002  the option's name
        Literal["gguf", "mlx"] | None,
        typer.Option(help="Only models of this kind.", show_default="what suits the box"),
    ] = None,
    sort: Annotated[
        Literal["downloads", "size", "name"], typer.Option(help="Order of the lines.")
    ] = "downloads",
) -> None:
    """Find models to pull, and see whether they would fit this box."""
    from services.cli.commands import search as command

    command.search(_paths(data), query, limit=limit, format=format, sort=sort)


@app.command(name="import")
def import_models(
    data: Data,
    path: Annotated[
        Path | None, typer.Argument(help="A GGUF file, or a folder with a model.")
    ] = None,
    ollama: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Everything of an Ollama store.")
    ] = None,
    hf: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Everything of a Hugging Face cache.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call it.", show_default="as the file")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Do not share bytes with the original.")
    ] = False,
) -> None:
    """Take in models that are on this computer, without copying where the disk allows."""
    from services.cli.commands import import_ as command

    command.import_models(_paths(data), path, ollama=ollama, hf=hf, name=name, copy=copy)


@app.command(name="list")
def list_models(data: Data) -> None:
    """List the models that are here."""
    from services.cli.commands import models as command

    command.list_models(_paths(data))


@app.command()
def rm(name: Name, data: Data) -> None:
    """Delete a model and free its space."""
    from services.cli.commands import models as command

    command.remove(_paths(data), name)


@app.command()
def ps(data: Data) -> None:
    """Show the models that are loaded, and what they do."""
    from services.cli.commands import models as command

    command.loaded(_paths(data))


@app.command()
def run(
    name: Name,
    data: Data,
    prompt: Annotated[
        str | None, typer.Argument(help="What to say; read from stdin when absent.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is greedy.")] = None,
) -> None:
    """Ask a model and print the answer as it comes."""
    from services.cli.commands import run as command

    command.run(
        _paths(data),
        name,
        prompt,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
    )


def _paths(data: Path) -> StackPaths:
    return StackPaths(data.expanduser().absolute())
