"""Tells whether .venv is what the lock files say.

The fingerprints are written last, so a set-up that was interrupted is done again. `./spindll`
imports this file with whatever Python there is: keep to the syntax of Python 3.7.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

LOCKS = ("local.lock", "llama.lock", "redis.lock")
DEV_LOCKS = ("dev.lock", "llama.lock", "redis.lock")

_STAMP = "spindll-setup.json"
_OWNER = "spindll-made-this"


def venv_dir(root: Path) -> Path:
    """The environment's folder."""
    return root / ".venv"


def venv_python(root: Path) -> Path:
    """The environment's interpreter, there or not."""
    return venv_dir(root) / "bin" / "python"


def is_current(root: Path, dev: bool = False) -> bool:
    """Whether everything the locks name was installed, and its Python is still there."""
    made = read(root)
    wanted = fingerprint(root, LOCKS)
    if made.get("local") != wanted or not os.access(str(venv_python(root)), os.X_OK):
        return False
    return not dev or made.get("dev") == fingerprint(root, DEV_LOCKS)


def is_ours(root: Path) -> bool:
    """Whether we made the folder, and so may make it anew."""
    return (venv_dir(root) / _OWNER).exists()


def claim(root: Path) -> None:
    """Mark the folder as ours before anything is put into it."""
    venv_dir(root).mkdir(parents=True, exist_ok=True)
    (venv_dir(root) / _OWNER).touch()


def read(root: Path) -> dict[str, str]:
    """What the last set-up wrote: `local` and `dev` fingerprints, `cmake_args`, `llama`."""
    try:
        found = json.loads((venv_dir(root) / _STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def begin(root: Path, dev: bool, cmake_args: str) -> None:
    """Say that a set-up is under way: nothing counts as installed, what was asked for is kept."""
    made = {"cmake_args": cmake_args}
    if dev:
        made["dev"] = "under way"
    _save(root, made)


def finish(root: Path, dev: bool, cmake_args: str, llama: str) -> None:
    """Say that all is installed. `llama` identifies the llama.cpp build that is in it."""
    made = {"local": fingerprint(root, LOCKS), "cmake_args": cmake_args, "llama": llama}
    if dev:
        made["dev"] = fingerprint(root, DEV_LOCKS)
    _save(root, made)


def fingerprint(root: Path, names: tuple[str, ...]) -> str:
    """One hash over the named lock files."""
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode() + b"\0" + (root / "locks" / name).read_bytes())
    return total.hexdigest()


def _save(root: Path, made: dict[str, str]) -> None:
    partial = venv_dir(root) / (_STAMP + ".partial")
    partial.write_text(json.dumps(made, indent=1))
    partial.replace(venv_dir(root) / _STAMP)
