"""The detached supervisor: `python -m services.cli.supervise FD`, options as JSON on stdin."""

from __future__ import annotations

import sys

from services.cli.errors import CommandError
from services.cli.options import from_json
from services.cli.supervise.launch import run_stack
from services.cli.supervise.reporting import PipeReporter, failure_report
from services.shared.logs import set_up_logs


def main(descriptor: int) -> int:
    """Run the stack; report through the pipe until the start has succeeded or failed."""
    set_up_logs("supervisor", level="INFO", fmt="text")
    options = from_json(sys.stdin.buffer.read())
    reporter = PipeReporter(descriptor)
    try:
        run_stack(options, reporter)
    except CommandError as error:
        reporter.report(failure_report(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
