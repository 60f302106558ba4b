"""Record in .venv which lock files it was made from, and check whether it is current.

The fingerprints of the lock files are written last, so a set-up that was interrupted runs again.
The first `python3` on PATH may read this file: keep to the syntax of Python 3.7.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

LOCKS = ("local.lock", "llama.lock", "redis.lock")
DEV_LOCKS = ("dev.lock", "llama.lock", "redis.lock")
MLX_LOCKS = ("mlx.lock",)

_STATE_FILE = "spindll-setup.json"
_OWNER_MARK = "spindll-made-this"


def venv_dir(root: Path) -> Path:
    """The folder of the environment."""
    return root / ".venv"


def venv_python(root: Path) -> Path:
    """The path of the environment's interpreter, whether or not it exists."""
    return venv_dir(root) / "bin" / "python"


def is_current(root: Path, *, dev: bool = False, mlx: bool = False) -> bool:
    """Whether all packages of the lock files are installed, and the interpreter still exists.

    An environment that was made with MLX must have the MLX of the present lock file.
    """
    state = read(root)
    wanted = fingerprint(root, LOCKS)
    if state.get("local") != wanted or not os.access(str(venv_python(root)), os.X_OK):
        return False
    if (mlx or "mlx" in state) and state.get("mlx") != fingerprint(root, MLX_LOCKS):
        return False
    return not dev or state.get("dev") == fingerprint(root, DEV_LOCKS)


def is_ours(root: Path) -> bool:
    """Whether the installer created the folder, and may therefore delete it."""
    return (venv_dir(root) / _OWNER_MARK).exists()


def mark_as_ours(root: Path) -> None:
    """Create the folder with a mark that it is ours, before anything is installed into it."""
    venv_dir(root).mkdir(parents=True, exist_ok=True)
    (venv_dir(root) / _OWNER_MARK).touch()


def read(root: Path) -> dict[str, str]:
    """The state that the last set-up wrote, with these keys.

    `local`, `dev` and `mlx` are fingerprints of lock files, `cmake_args` are the build options and
    `llama` identifies the build of llama.cpp; it is empty where there is none.
    """
    try:
        found = json.loads((venv_dir(root) / _STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def mark_started(root: Path, *, dev: bool, cmake_args: str, mlx: bool = False) -> None:
    """Record that a set-up has started: its options are kept, nothing counts as installed."""
    state = {"cmake_args": cmake_args}
    if dev:
        state["dev"] = "under way"
    if mlx:
        state["mlx"] = "under way"
    _save(root, state)


def mark_finished(root: Path, *, dev: bool, cmake_args: str, llama: str, mlx: bool = False) -> None:
    """Record that everything is installed. `llama` identifies the build of llama.cpp, if any."""
    state = {"local": fingerprint(root, LOCKS), "cmake_args": cmake_args, "llama": llama}
    if dev:
        state["dev"] = fingerprint(root, DEV_LOCKS)
    if mlx:
        state["mlx"] = fingerprint(root, MLX_LOCKS)
    _save(root, state)


def fingerprint(root: Path, names: tuple[str, ...]) -> str:
    """One hash over the given lock files."""
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode() + b"\0" + (root / "locks" / name).read_bytes())
    return total.hexdigest()


def _save(root: Path, state: dict[str, str]) -> None:
    partial = venv_dir(root) / (_STATE_FILE + ".partial")
    partial.write_text(json.dumps(state, indent=1))
    partial.replace(venv_dir(root) / _STATE_FILE)
