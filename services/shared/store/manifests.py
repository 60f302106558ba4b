"""Read and write manifest files.

A manifest is checked again when it is read: its digests, paths and name. A damaged or planted
manifest is skipped and logged, so it can neither refer outside the store nor break the others.
Decoded manifests are cached by inode, size and times; a new manifest appears as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import msgspec

from services.shared.errors import InvalidModelFile, InvalidModelName
from services.shared.model_name import ModelName
from services.shared.store import durable
from services.shared.store.layout import Layout, checked_path, parse_digest
from services.shared.store.manifest import SCHEMA, Manifest
from services.shared.structs import decode_json

logger = logging.getLogger(__name__)

# A description holds a chat template and token lists; no real one is larger.
MAX_MANIFEST_BYTES = 16 << 20
_DEPTH = 4  # host / namespace / model / tag.json
_ANY_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")
_DIGEST_BYTES = len("sha256:") + 64

_Identity = tuple[int, int, int, int]


class Manifests:
    """The `manifests/` folder. Any thread may use it; the lock guards only the cache."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = Lock()
        self._cache: dict[Path, tuple[_Identity, Manifest | None]] = {}

    def get(self, name: ModelName) -> Manifest | None:
        """The manifest of exactly this name, compared without case, or None."""
        return self._read(self._layout.manifest(name))

    def all(self) -> list[Manifest]:
        """Every readable manifest, in no particular order."""
        paths = list(self.paths())
        with self._lock:
            for gone in self._cache.keys() - set(paths):
                del self._cache[gone]
        return [found for path in paths if (found := self._read(path)) is not None]

    def paths(self) -> Iterator[Path]:
        """Every manifest file, readable or not. Does not follow links."""
        return _walk(self._layout.manifests, _DEPTH)

    def references(self) -> set[str]:
        """Every digest that a manifest refers to.

        A damaged file protects the digests that can still be found in it: a blob that is kept too
        long is better than a model that can no longer be repaired.
        """
        found: set[str] = set()
        for path in self.paths():
            manifest = self._read(path)
            if manifest is not None:
                found.update(file.digest for file in manifest.files)
            else:
                found.update(_find_digests(path))
        return found

    def find_damaged(self, name: ModelName) -> set[str] | None:
        """The digests in a manifest of this name that cannot be used; None when there is none."""
        path = self._layout.manifest(name)
        return _find_digests(path) if path.is_file() and self._read(path) is None else None

    def prepare(self, name: ModelName, manifest: Manifest) -> tuple[Path, Path]:
        """Write a manifest durably to a temporary file; (temporary, final) for `durable.move`.

        Raises InvalidModelFile when it is too large to be read again.
        """
        path = self._layout.manifest(name)
        encoded = msgspec.json.format(msgspec.json.encode(manifest))
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise InvalidModelFile("the texts of the model are larger than any real ones")
        durable.make_folder(path.parent, below=self._layout.root)
        return durable.write_beside(path, encoded), path

    def remove(self, name: ModelName) -> None:
        """Remove a manifest durably. Raises FileNotFoundError when there is none."""
        path = self._layout.manifest(name)
        durable.make_folder(path.parent, below=self._layout.root)  # refuses links
        path.unlink()
        durable.sync_folder(path.parent)

    def _read(self, path: Path) -> Manifest | None:
        try:
            identity = _identity(path)
        except OSError:
            return None
        with self._lock:
            cached = self._cache.get(path)
        if cached is not None and cached[0] == identity:
            return cached[1]
        manifest = self._decode(path)
        with self._lock:
            self._cache[path] = (identity, manifest)
        return manifest

    def _decode(self, path: Path) -> Manifest | None:
        try:
            manifest = decode_json(_bytes(path), Manifest)
            check(manifest)
            if self._layout.manifest(ModelName.parse(manifest.name)) != path:
                raise InvalidModelFile("the manifest is not where its name belongs")
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, InvalidModelFile, InvalidModelName) as error:
            logger.warning(
                "manifest skipped", extra={"file": "/".join(path.parts[-4:]), "reason": str(error)}
            )
            return None
        return manifest


def check(manifest: Manifest) -> None:
    """Check what the types cannot express. Raises InvalidModelFile or InvalidModelName."""
    if manifest.schema > SCHEMA:
        raise InvalidModelFile("the manifest was written by a newer version")
    ModelName.parse(manifest.name)
    for file in manifest.files:
        checked_path(file.path)
        if parse_digest(file.digest) != file.digest or file.size_bytes < 0:
            raise InvalidModelFile("a digest or size in the manifest is not well formed")


def _bytes(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidModelFile("the manifest is too large")
    return data


def _find_digests(path: Path) -> set[str]:
    """Every digest in a file of any size, readable as a manifest or not."""
    found: set[str] = set()
    rest = b""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            while data := file.read(1 << 20):
                found.update(match.decode() for match in _ANY_DIGEST.findall(rest + data))
                rest = data[-_DIGEST_BYTES:]
    return found


def _identity(path: Path) -> _Identity:
    found = os.lstat(path)
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if depth > 1:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), depth - 1)
        elif _is_manifest(entry):
            yield Path(entry.path)


def _is_manifest(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".")
    return not hidden and entry.name.endswith(".json") and entry.is_file(follow_symlinks=False)
