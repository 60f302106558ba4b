"""The `cache` commands: what the prompt cache holds, deletion, new keys."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.data_option import Data, find_paths

app = typer.Typer(
    name="cache",
    help="Show what the prompt cache holds; delete it, or change its keys.",
    invoke_without_command=True,
)

Tenant = Annotated[str | None, typer.Option("--tenant", help="Of one tenant; by default of all.")]


@app.callback()
def show(context: typer.Context, data: Data) -> None:
    """Show the tiers (bytes, uses, why something was not stored) and the named prefixes."""
    if context.invoked_subcommand is None:
        from services.cli.commands import cache as command

        command.show(find_paths(data))


@app.command()
def clear(
    data: Data,
    tenant: Tenant = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Of one model; by default of all.")
    ] = None,
    days: Annotated[
        float | None,
        typer.Option("--unused-days", min=0, help="Only what was not used for so many days."),
    ] = None,
) -> None:
    """Delete stored prompts. Those of a tenant are then unreadable, copies included."""
    from services.cli.commands import cache as command

    command.clear(find_paths(data), tenant=tenant, model=model, days=days)


@app.command()
def unpin(
    data: Data,
    name: Annotated[str, typer.Argument(help="The name of the prefix.")],
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Whose it is; by default the key's own.")
    ] = None,
) -> None:
    """Forget a named prefix: what is stored of it may be evicted."""
    from services.cli.commands import cache as command

    command.unpin(find_paths(data), name, tenant)


@app.command()
def rotate(data: Data, tenant: Tenant = None) -> None:
    """Encrypt what is stored from now on with new keys. What is there stays readable."""
    from services.cli.commands import cache as command

    command.rotate(find_paths(data), tenant)
