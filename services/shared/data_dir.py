"""The platform's folder for the data of this application.

A module of its own, so that the command line can import it without pydantic.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_data_dir() -> Path:
    """The default folder for models, secrets and logs."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "spindll"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else home / ".local" / "share") / "spindll"
