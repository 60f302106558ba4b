"""Run a command; a CommandError becomes one line on stderr and exit status 1."""

from __future__ import annotations

import os
import sys

from services.cli.app import app
from services.cli.errors import CommandError
from services.cli.formatting import printable, printable_lines


def main() -> int:
    """Run the command line; its exit status."""
    try:
        app(prog_name="spindll")
    except CommandError as error:
        # Both may hold texts of strangers: a file name of a repository, a line of a log.
        print(f"spindll: {printable(error.message)}", file=sys.stderr)
        if error.details:
            print(printable_lines(error.details), file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader closed the pipe, as in `spindll logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
