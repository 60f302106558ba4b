"""`python -m services.api`: runs gunicorn with the configuration of the api."""

from __future__ import annotations

import os
import sys

from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]


def main() -> None:
    """Run until a signal stops the process."""
    # GUNICORN_CMD_ARGS in the environment must not change the configuration.
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
