"""Import a model file or folder of this machine, without copying it where possible.

A file becomes a blob by hard link (the same bytes under one more name), else by reflink, else by
copy. Deleting the blob removes only its own name, so the original stays. `owned` is False when
bytes are shared, so that the operator can see that deleting the model frees no space.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.puller.assemble import assemble
from services.puller.formats.describe import describe_model
from services.puller.sources.base import Listing
from services.puller.sources.file_selection import SelectionCriteria, select_files
from services.shared.errors import InvalidModelFile, NotFound, PullFailed, SpindllError
from services.shared.model_name import ModelName
from services.shared.store.leases import Lease
from services.shared.store.manifest import FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore

_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to import. Its `digest`, if there is one, is verified."""

    role: FileRole
    path: str
    source: Path
    digest: str | None = None


def import_file(store: ModelStore, path: Path, name: str, *, link: bool = True) -> Manifest:
    """Import one GGUF, or all parts of a split one, given the path of any part.

    Raises InvalidModelName, InvalidModelFile or NotFound, and leaves the store unchanged.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path.name}")
    files = [LocalFile(FileRole.MODEL, part.name, part) for part in _find_parts(path)]
    return import_model(store, files, name, source=f"import of {path.name}", link=link)


def import_folder(store: ModelStore, folder: Path, name: str, *, link: bool = True) -> Manifest:
    """Import a folder that holds one model: MLX, or GGUF (perhaps split, or with a projector).

    Files that are not part of the model, such as code, are not imported.
    """
    files, warnings = _select(folder, SelectionCriteria())
    source = f"import of {folder.name}"
    return import_model(store, files, name, source=source, link=link, warnings=warnings)


def select_local_files(folder: Path, criteria: SelectionCriteria) -> list[LocalFile]:
    """Select the model's files in a folder by the rules that apply to a repository.

    Raises InvalidModelFile when the folder has no model.
    """
    return _select(folder, criteria)[0]


def _select(folder: Path, criteria: SelectionCriteria) -> tuple[list[LocalFile], tuple[str, ...]]:
    paths = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    try:
        selection = select_files(paths, criteria)
    except PullFailed as error:
        raise InvalidModelFile(error.message.replace("the repository", "the folder")) from error
    files = [LocalFile(role, path, folder / path) for role, path in selection.files]
    warnings = tuple(text.replace("the repository", "the folder") for text in selection.warnings)
    return files, warnings


def import_model(
    store: ModelStore,
    files: Sequence[LocalFile],
    name: str,
    *,
    source: str,
    link: bool = True,
    warnings: tuple[str, ...] = (),
) -> Manifest:
    """Store the blobs, describe the model, and put its manifest, in this order.

    A lease keeps the blobs until the manifest names them.
    """
    listing = Listing(
        name=ModelName.parse(name),
        # Names of files may have bytes that are no text, which a manifest cannot hold.
        source=os.fsencode(source).decode(errors="replace"),
        format="gguf",
        files=(),
        warnings=warnings,
    )
    stored: list[StoredFile] = []
    try:
        with store.lease() as lease:
            is_shared = _add_files(store, lease, files, stored, link=link)
            description = describe_model(stored, store.file_path, name=listing.name)
            manifest = assemble(store, listing, stored, description)
            manifest = msgspec.structs.replace(manifest, owned=not is_shared)
            store.put(manifest)
    except SpindllError:
        store.discard(file.digest for file in stored)
        raise
    return manifest


def _add_files(
    store: ModelStore,
    lease: Lease,
    files: Sequence[LocalFile],
    stored: list[StoredFile],
    *,
    link: bool,
) -> bool:
    """Append each stored file to `stored`; True when any of them shares bytes with its original."""
    is_shared = False
    for file in files:
        blob = store.blobs.add_file(file.source, link=link, digest=file.digest, lease=lease)
        is_shared = is_shared or blob.linked
        size = blob.size_bytes
        stored.append(
            StoredFile(role=file.role, path=file.path, digest=blob.digest, size_bytes=size)
        )
    return is_shared


def default_model_name(path: Path) -> str:
    """The name for a file or folder without a given one: its own, reduced to allowed letters."""
    split = _SPLIT.fullmatch(path.name)
    stem = split["stem"] if split else re.sub(r"\.gguf$", "", path.name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9_.]+|\.{2,}", "-", stem).strip("-.")[:80] or "model"


def _find_parts(path: Path) -> list[Path]:
    split = _SPLIT.fullmatch(path.name)
    if split is None:
        return [path]
    count = int(split["count"])
    parts = [
        path.with_name(f"{split['stem']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise InvalidModelFile(f"a part of the model is missing: {missing[0]}")
    return parts
