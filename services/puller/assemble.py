"""Make a manifest of the files that were fetched: read what the small ones say, describe the large.

Limits are those of a text a person wrote; a registry may send anything.
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

_MAX_TEXT_BYTES = 4 << 20


def assemble(
    store: ModelStore, listing: Listing, files: Sequence[StoredFile], description: Description
) -> Manifest:
    """The manifest to put; InvalidModelFile when a small file is not what it should be."""
    texts = _Texts(store, files)
    return Manifest(
        name=str(listing.name),
        source=listing.source,
        created_at=time.time(),
        files=tuple(files),
        description=msgspec.structs.replace(
            description, warnings=(*listing.warnings, *description.warnings)
        ),
        params=texts.params(),
        system=texts.joined(FileRole.SYSTEM, "\n"),
        messages=texts.messages(),
        license=texts.joined(FileRole.LICENSE, "\n"),
    )


class _Texts:
    def __init__(self, store: ModelStore, files: Sequence[StoredFile]) -> None:
        self._store = store
        self._files = files

    def params(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for raw in self._raw(FileRole.PARAMS):
            merged.update(_json(raw, dict[str, Any], "parameters"))
        return merged

    def messages(self) -> tuple[dict[str, Any], ...]:
        found: list[dict[str, Any]] = []
        for raw in self._raw(FileRole.MESSAGES):
            found += _json(raw, list[dict[str, Any]], "messages")
        return tuple(found)

    def joined(self, role: FileRole, separator: str) -> str | None:
        texts = [raw.decode("utf-8", "replace") for raw in self._raw(role)]
        return separator.join(texts) if texts else None

    def _raw(self, role: FileRole) -> list[bytes]:
        found = []
        for file in self._files:
            if file.role is role:
                if file.size_bytes > _MAX_TEXT_BYTES:
                    raise InvalidModelFile(f"the model's {role.value} is too large to be one")
                found.append(self._store.file_path(file).read_bytes())
        return found


def _json(raw: bytes, kind: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidModelFile(f"the model's {what} are not readable") from error
