"""Models that are on this machine already, taken into the store without copying where possible.

A file becomes a blob by hard link (the same bytes under one more name), else by reflink, else by
copy. Deleting ours then never deletes theirs: it takes away one name. `owned` is False where bytes
are shared, so that people are told that a deletion gives nothing back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.puller.assemble import assemble
from services.puller.formats.describe import describe_model
from services.puller.sources.base import Listing
from services.puller.sources.file_selection import Wanted, choose
from services.shared.errors import InvalidModelFile, NotFound, PullFailed, SpindllError
from services.shared.model_name import ModelName
from services.shared.store.leases import Lease
from services.shared.store.manifest import FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore

_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """One file to take in. `digest`: what its owner says it has; checked."""

    role: FileRole
    path: str
    source: Path
    digest: str | None = None


def import_file(store: ModelStore, path: Path, name: str, *, link: bool = True) -> Manifest:
    """Take in one GGUF, or all parts of a split one (any part may be named).

    InvalidModelName, InvalidModelFile, NotFound; the store is unchanged then.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path.name}")
    found = [Found(FileRole.MODEL, part.name, part) for part in _parts(path)]
    return take_in(store, found, name, source=f"import of {path.name}", link=link)


def import_folder(store: ModelStore, folder: Path, name: str, *, link: bool = True) -> Manifest:
    """Take in a folder that holds one model: an MLX one, or a GGUF (in parts, with a projector).

    Files that are no part of it, code above all, stay where they are.
    """
    found = files_in(folder)
    return take_in(store, found, name, source=f"import of {folder.name}", link=link)


def files_in(folder: Path, wanted: Wanted | None = None) -> list[Found]:
    """The model in a folder, chosen as it would be from a repository; InvalidModelFile if none."""
    paths = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    try:
        choice = choose(paths, wanted or Wanted())
    except PullFailed as error:
        raise InvalidModelFile(error.message.replace("the repository", "the folder")) from error
    return [Found(role, path, folder / path) for role, path in choice.files]


def take_in(
    store: ModelStore, found: Sequence[Found], name: str, *, source: str, link: bool = True
) -> Manifest:
    """Blobs, description, manifest, in this order; a lease keeps the blobs until the end."""
    listing = Listing(name=ModelName.parse(name), source=source, format="gguf", files=())
    files: list[StoredFile] = []
    try:
        with store.lease() as lease:
            shared = _add_files(store, lease, found, files, link=link)
            manifest = assemble(store, listing, files, describe_model(files, store.file_path))
            manifest = msgspec.structs.replace(manifest, owned=not shared)
            store.put(manifest)
    except SpindllError:
        store.discard(file.digest for file in files)
        raise
    return manifest


def _add_files(
    store: ModelStore, lease: Lease, found: Sequence[Found], files: list[StoredFile], *, link: bool
) -> bool:
    """Append to `files` what is in the store; whether any is a link to its owner's."""
    shared = False
    for each in found:
        blob = store.blobs.add_file(each.source, link=link, digest=each.digest, lease=lease)
        shared = shared or blob.linked
        size = blob.size_bytes
        files.append(
            StoredFile(role=each.role, path=each.path, digest=blob.digest, size_bytes=size)
        )
    return shared


def default_name(path: Path) -> str:
    """A name for a file or folder nobody named: its own, in the letters a name may have."""
    split = _SPLIT.fullmatch(path.name)
    stem = split["stem"] if split else re.sub(r"\.gguf$", "", path.name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9_.]+|\.{2,}", "-", stem).strip("-.")[:80] or "model"


def _parts(path: Path) -> list[Path]:
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
