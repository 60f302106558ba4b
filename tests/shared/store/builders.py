"""Build models of a few bytes: the store looks at digests, sizes and paths, not at contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.shared.store.manifest import Description, FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore


def sha256_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def stored(path: str, data: bytes, role: FileRole = FileRole.MODEL) -> StoredFile:
    return StoredFile(role=role, path=path, digest=sha256_digest(data), size_bytes=len(data))


def make_manifest(name: str, contents: Mapping[str, bytes], **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": name,
        "source": "a test",
        "created_at": 1.0,
        "files": tuple(stored(path, data) for path, data in contents.items()),
        "description": Description(format="gguf", architecture="llama"),
    }
    return Manifest(**(fields | changes))


def put_model(
    store: ModelStore, name: str, files: Mapping[str, bytes] | None = None, **changes: Any
) -> Manifest:
    files = files or {"model.gguf": name.encode()}
    for data in files.values():
        store.blobs.add_bytes(data)
    manifest = make_manifest(name, files, **changes)
    store.put(manifest)
    return manifest


def blob_names(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs").glob("*")}


def names(store: ModelStore) -> list[str]:
    return [manifest.name for manifest in store.list()]
