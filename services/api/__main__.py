"""`python -m services.api`: gunicorn with our configuration."""

from __future__ import annotations

import os
import sys

from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]


def main() -> None:
    """Run until stopped by a signal."""
    # A GUNICORN_CMD_ARGS left in the environment must not change what runs.
    os.environ.pop("GUNICORN_CMD_ARGS", None)
    sys.argv = [
        "spindll-api",
        "-c",
        "python:services.api.process.gunicorn_conf",
        "services.api.asgi:app",
    ]
    WSGIApplication("%(prog)s [OPTIONS]").run()


if __name__ == "__main__":
    main()
