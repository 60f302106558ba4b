"""`up`: start the stack in the foreground or in the background."""

from __future__ import annotations

import sys

import typer

from services.cli.errors import CommandError
from services.cli.options import StackOptions
from services.cli.supervise.launch import run_detached, run_stack
from services.cli.supervise.reporting import TerminalReporter
from services.shared.logs import set_up_logs


def up(options: StackOptions, *, detach: bool) -> None:
    """Run the stack until Ctrl-C or SIGTERM; with `detach`, return when it is ready."""
    print(f"starting Spindll (data: {options.data_dir})", file=sys.stderr)
    try:
        if detach:
            run_detached(options)
        else:
            set_up_logs("supervisor", level="WARNING", fmt="text")
            run_stack(options, TerminalReporter())
            print("stopped", file=sys.stderr)
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        raise typer.Exit(130) from error
    except OSError as error:
        raise CommandError(
            f"cannot start: {error.strerror} ({error.filename or 'no file'})"
        ) from error
