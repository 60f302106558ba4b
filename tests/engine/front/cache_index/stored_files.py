"""Entries as a runner leaves them, for the front, which reads headers only."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from services.engine.kv_entry import EntryHeader, compute_model_tag, entry_path


def store_entry(
    folder: Path,
    key_id: bytes,
    *,
    payload_bytes: int = 1000,
    seconds: float = 1.0,
    model_digest: str = "sha256:model",
    unused_seconds: float = 0.0,
) -> str:
    """Write an entry with this header; returns its name."""
    name = secrets.token_hex(32)
    header = EntryHeader(
        kind="block",
        tokens=256,
        key_id=key_id,
        salt=bytes(16),
        model_tag=compute_model_tag(model_digest),
        payload_bytes=payload_bytes,
        created=int(time.time()),
        seconds=seconds,
    )
    path = Path(entry_path(str(folder), name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(header.pack() + bytes(header.file_bytes - len(header.pack())))
    used_at = time.time() - unused_seconds
    os.utime(path, (used_at, used_at))
    return name


def list_names(folder: Path) -> set[str]:
    """The names of the entries that lie in a folder."""
    return {path.parent.name + path.name for path in folder.glob("??/*")}
