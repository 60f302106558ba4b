"""The `keys` commands: list, create and revoke the API keys of a stack."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from services.cli.data_option import Data, find_paths

app = typer.Typer(
    name="keys", help="List the API keys; create or revoke one.", no_args_is_help=True
)


@app.command(name="list")
def list_keys(data: Data) -> None:
    """List the keys, without their texts."""
    from services.cli.commands import keys as command

    command.list_keys(find_paths(data))


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as a team.")],
    data: Data,
    role: Annotated[Literal["user", "admin"], typer.Option(help="What it may do.")] = "user",
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Keys of one tenant reuse each other's computed prompts.",
            show_default="one of its own",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="Its lifetime, such as 30d, 12h or 45m.", show_default="no end"),
    ] = None,
) -> None:
    """Create a key and print it to stdout. It is shown only once."""
    from services.cli.commands import keys as command

    command.create(find_paths(data), name, role=role, tenant=tenant, expires=expires)


@app.command()
def revoke(
    key: Annotated[
        str, typer.Argument(help="A key's id, its first 4 digits or more, or its name.")
    ],
    data: Data,
) -> None:
    """End a key; within two seconds no process accepts it."""
    from services.cli.commands import keys as command

    command.revoke(find_paths(data), key)
