"""Find the stack that a command connects to, and an API key for it.

1 SPINDLL_URL with SPINDLL_API_KEY: a stack anywhere. It never gets a key of this computer's files.
2 the stack that runs from the data directory, with its admin key or user key
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.cli.errors import CommandError
from services.cli.paths import StackPaths
from services.cli.supervise import state_file
from services.shared.keychain import read_secret, refers_to_keychain


@dataclass(frozen=True, slots=True)
class Connection:
    """The URL of a stack and an API key. /ready needs no key."""

    url: str
    key: str = field(default="", repr=False)


def find_connection(paths: StackPaths, environment: Mapping[str, str] = os.environ) -> Connection:
    """The connection to use. Raises CommandError when no stack is running or there is no key."""
    if url := environment.get("SPINDLL_URL"):
        key = environment.get("SPINDLL_API_KEY")
        if not key:
            raise CommandError(
                "SPINDLL_URL needs SPINDLL_API_KEY: the keys of this computer's data directory are"
                " sent to its own stack only"
            )
        return Connection(url.rstrip("/").removesuffix("/v1"), key)
    state = state_file.read_running(paths)
    if state is None:
        raise CommandError(
            f"no stack is running (data: {paths.data_dir}):"
            " start it with `up --detach`, or set SPINDLL_URL"
        )
    key = read_local_key(paths)
    if not key:
        where = f"{paths.admin_key.parent}{_keychain_hint(paths)}"
        raise CommandError(f"cannot read an API key in {where}")
    return Connection(state.url, key)


def read_local_key(paths: StackPaths) -> str:
    """The admin key of a data directory, else its user key; empty when neither can be read."""
    for file in (paths.admin_key, paths.user_key):
        try:
            return read_secret(file).decode().strip()
        except OSError:
            continue
    return ""


def _keychain_hint(paths: StackPaths) -> str:
    if not refers_to_keychain(paths.admin_key):
        return ""
    return ", which refers to the Keychain: unlock it with `security unlock-keychain`"
