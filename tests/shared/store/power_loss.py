"""Simulate a power cut before any system call, and the contents of the disk after it.

The simulated disk keeps only what POSIX guarantees: a file has the bytes of its last fsync, a
folder the entries of its last fsync. `survivors` builds that tree. The actual tree is the other
extreme: everything has reached the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_CALLS = ("fsync", "replace", "rename", "unlink", "link", "symlink", "mkdir", "rmdir", "open")


class PowerCut(BaseException):
    """The simulated power cut. Not an Exception, so that only the test catches it."""


class Disk:
    """Counts the calls that change a tree, raises PowerCut at a given one, and records fsyncs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls = 0
        self.cut_at: int | None = None
        self._bytes: dict[int, bytes] = {}  # by inode
        self._entries: dict[int, dict[str, tuple[str, int | str]]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in _CALLS:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def remember_all(self) -> None:
        """Record the current tree as durable."""
        for folder, _, files in os.walk(self.root):
            self._remember(Path(folder))
            for file in files:
                self._remember(Path(folder, file))

    def survivors(self, target: Path) -> Path:
        """Write the durable tree to `target`."""
        self._restore(self.root.stat().st_ino, target)
        return target

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.cut_at is not None and self.calls >= self.cut_at:
                raise PowerCut(name)
            self.calls += 1
            if name == "fsync":  # recorded, not executed: real ones would take minutes here
                return self._remember(Path(f"/proc/self/fd/{args[0]}").readlink())
            return real(*args, **kwargs)

        return call

    def _remember(self, path: Path) -> None:
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            self._entries[found.st_ino] = {p.name: _entry(p) for p in path.iterdir()}
        elif stat.S_ISREG(found.st_mode):
            self._bytes[found.st_ino] = path.read_bytes()

    def _restore(self, folder: int, target: Path) -> None:
        target.mkdir()
        for name, (kind, value) in self._entries.get(folder, {}).items():
            if isinstance(value, str):
                (target / name).symlink_to(value)
            elif kind == "folder":
                self._restore(value, target / name)
            else:
                (target / name).write_bytes(self._bytes.get(value, b""))


def _entry(path: Path) -> tuple[str, int | str]:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return "link", str(path.readlink())
    return ("folder" if stat.S_ISDIR(found.st_mode) else "file"), found.st_ino
