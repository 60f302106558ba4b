"""Assemble the manifest of a model from its stored files and its description.

The small text files of a model are untrusted, so their sizes are limited.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from services.puller.sources.base import Listing
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import Description, FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore
from services.shared.structs import decode_json

_MAX_TEXT_BYTES = 4 << 20
_MAX_LEVELS = 32  # of JSON in JSON; every reader of the manifest must be able to follow them


def assemble(
    store: ModelStore, listing: Listing, files: Sequence[StoredFile], description: Description
) -> Manifest:
    """Return the manifest. Raises InvalidModelFile when a small file is too large or malformed."""
    small_files = _SmallFiles(store, files)
    return Manifest(
        name=str(listing.name),
        source=listing.source,
        created_at=time.time(),
        files=tuple(files),
        description=msgspec.structs.replace(
            description, warnings=(*listing.warnings, *description.warnings)
        ),
        params=small_files.read_params(),
        system=small_files.read_text(FileRole.SYSTEM, "\n"),
        messages=small_files.read_messages(),
        pulled_name=str(listing.name) if listing.version else None,
        version=listing.version,
        license=small_files.read_text(FileRole.LICENSE, "\n"),
    )


class _SmallFiles:
    """Reads the text files of a model by role; several files of one role are merged."""

    def __init__(self, store: ModelStore, files: Sequence[StoredFile]) -> None:
        self._store = store
        self._files = files

    def read_params(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for raw in self._read(FileRole.PARAMS):
            merged.update(_parse_json(raw, dict[str, Any], "parameters"))
        return merged

    def read_messages(self) -> tuple[dict[str, Any], ...]:
        found: list[dict[str, Any]] = []
        for raw in self._read(FileRole.MESSAGES):
            found += _parse_json(raw, list[dict[str, Any]], "messages")
        return tuple(found)

    def read_text(self, role: FileRole, separator: str) -> str | None:
        texts = [raw.decode("utf-8", "replace") for raw in self._read(role)]
        return separator.join(texts) if texts else None

    def _read(self, role: FileRole) -> list[bytes]:
        found = []
        for file in self._files:
            if file.role is role:
                if file.size_bytes > _MAX_TEXT_BYTES:
                    raise InvalidModelFile(
                        f"the model's {role.value} file is larger than any real one"
                    )
                found.append(self._store.file_path(file).read_bytes())
        return found


def _parse_json(raw: bytes, kind: Any, what: str) -> Any:
    try:
        value = decode_json(raw, kind)
    except msgspec.DecodeError as error:
        raise InvalidModelFile(f"the model's {what} are not readable") from error
    if _has_more_levels(value, _MAX_LEVELS):
        raise InvalidModelFile(f"the model's {what} are nested more deeply than any real ones")
    return value


def _has_more_levels(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_has_more_levels(item, levels - 1) for item in items)
