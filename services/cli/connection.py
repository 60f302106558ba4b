"""Find the stack that a command connects to, and an API key for it.

SPINDLL_URL and SPINDLL_API_KEY, if they are set; else the stack that runs from the data directory,
and its admin key or user key.
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
    """The URL of a stack and an API key. /ready needs no key."""

    url: str
    key: str = field(default="", repr=False)


def find_connection(paths: StackPaths, environment: Mapping[str, str] = os.environ) -> Connection:
    """The connection to use. Raises CommandError when no stack is running or there is no key."""
    return Connection(_url(paths, environment), _key(paths, environment))


def _url(paths: StackPaths, environment: Mapping[str, str]) -> str:
    if url := environment.get("SPINDLL_URL"):
        return url.rstrip("/").removesuffix("/v1")
    state = state_file.read_running(paths)
    if state is None:
        raise CommandError(
            f"no stack is running (data: {paths.data_dir}):"
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
    raise CommandError(f"cannot read an API key in {paths.admin_key.parent}: set SPINDLL_API_KEY")
