"""Where things are under the models folder. Every path of the store is built here.

A path comes from a validated digest or a parsed name, never from a string somebody sent; a stored
file's own path is used in views only, and only after `checked_path`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.shared.errors import InvalidModelFile
from services.shared.model_name import ModelName

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_BLOB_NAME = re.compile(r"sha256-([0-9a-f]{64})")
_BAD_PATH = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_MAX_PATH = 400


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one store. Creates nothing."""

    root: Path

    @property
    def blobs(self) -> Path:
        """Content, by digest."""
        return self.root / "blobs"

    @property
    def views(self) -> Path:
        """Links with real file names, one folder per model digest."""
        return self.root / "views"

    @property
    def manifests(self) -> Path:
        """One file per name."""
        return self.root / "manifests"

    @property
    def leases(self) -> Path:
        """Which blobs running jobs need."""
        return self.root / "leases"

    @property
    def trash(self) -> Path:
        """Blobs on their way out; whatever is here may be unlinked by anybody."""
        return self.root / "trash"

    @property
    def lock(self) -> Path:
        """Held (flock) for the moment a manifest or a blob appears or goes."""
        return self.root / ".lock"

    def blob(self, digest: str) -> Path:
        """The finished bytes."""
        return self.blobs / blob_name(digest)

    def partial(self, digest: str) -> Path:
        """The same bytes while they arrive."""
        return self.blobs / f"{blob_name(digest)}.partial"

    def partial_state(self, digest: str) -> Path:
        """What the downloader remembers of a partial."""
        return self.blobs / f"{blob_name(digest)}.partial.json"

    def view(self, digest: str) -> Path:
        """A model's folder of links; `digest` is the manifest's."""
        return self.views / blob_name(digest)

    def manifest(self, name: ModelName) -> Path:
        """The manifest of a name; two names that differ in case only share it."""
        host, namespace, model, tag = name.key
        return self.manifests / host / namespace / model / f"{tag}.json"


def parse_digest(text: str) -> str:
    """`sha256:<64 lower-case hex>` of either spelling; InvalidModelFile when it is none."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidModelFile("a digest must be sha256: and 64 hexadecimal digits")
    return f"sha256:{match[1].lower()}"


def blob_name(digest: str) -> str:
    """The file name of a digest."""
    return parse_digest(digest).replace(":", "-")


def digest_of_blob(file_name: str) -> str | None:
    """The digest a file name stands for (`.partial` and `.partial.json` included), or None."""
    match = _BLOB_NAME.fullmatch(file_name.removesuffix(".json").removesuffix(".partial"))
    return None if match is None else f"sha256:{match[1]}"


def checked_path(text: str) -> str:
    """A stored file's relative path, unchanged; InvalidModelFile when it could lead elsewhere."""
    parts = text.split("/")
    if (
        len(text) > _MAX_PATH
        or _BAD_PATH.search(text)
        or any(p in ("", ".", "..") or p != p.strip(" ") or len(p.encode()) > 255 for p in parts)
        or PurePosixPath(text).is_absolute()
    ):
        raise InvalidModelFile("a file of the model has a name that cannot be stored")
    return text
