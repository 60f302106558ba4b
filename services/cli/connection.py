"""Find the stack a client command talks to, and a key for it.

SPINDLL_URL and SPINDLL_API_KEY, where they are set; else the stack that runs from the data
directory, and its admin key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import state_file


@dataclass(frozen=True, slots=True)
class Connection:
    """Where, and as whom; an empty key is nobody, who may ask for /ready."""

    url: str
    key: str = field(default="", repr=False)


def find_connection(paths: StackPaths, environment: Mapping[str, str] = os.environ) -> Connection:
    """Problem when nothing runs, or no key is to be had."""
    return Connection(_url(paths, environment), _key(paths, environment))


def _url(paths: StackPaths, environment: Mapping[str, str]) -> str:
    if url := environment.get("SPINDLL_URL"):
        return url.rstrip("/").removesuffix("/v1")
    state = state_file.read_running(paths)
    if state is None:
        raise CommandError(
            f"nothing is running (data: {paths.data_dir}):"
            " start it with `up --detach`, or set SPINDLL_URL"
        )
    return state.url


def _key(paths: StackPaths, environment: Mapping[str, str]) -> str:
    if key := environment.get("SPINDLL_API_KEY"):
        return key
    for file in (paths.admin_key, paths.user_key):
        try:
            return file.read_text().strip()
        except OSError:
            continue
    raise CommandError(f"no key in {paths.admin_key.parent} that you may read: set SPINDLL_API_KEY")
