"""The paths of the store. Every path below the models folder is built here.

A path is built from a validated digest or a parsed name, never from text that a client sent. A
stored file's own path is used in views only, and only after `checked_path`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.shared.errors import InvalidModelFile
from services.shared.model_name import ModelName

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_BLOB_NAME = re.compile(r"sha256-([0-9a-f]{64})")
_BAD_PATH = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]')
_MAX_PATH = 400


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one store. It creates none of them."""

    root: Path

    @property
    def blobs(self) -> Path:
        """The folder of blobs, named by digest."""
        return self.root / "blobs"

    @property
    def views(self) -> Path:
        """The folder of views: links with real file names, one folder per model digest."""
        return self.root / "views"

    @property
    def manifests(self) -> Path:
        """The folder of manifests, one file per model name."""
        return self.root / "manifests"

    @property
    def leases(self) -> Path:
        """The folder of leases, which list the blobs that running jobs need."""
        return self.root / "leases"

    @property
    def trash(self) -> Path:
        """The folder of files to unlink; any process may unlink what is in it."""
        return self.root / "trash"

    @property
    def lock(self) -> Path:
        """The lock file (flock), held for the moment a manifest or a blob appears or disappears."""
        return self.root / ".lock"

    def blob(self, digest: str) -> Path:
        """The path of a finished blob."""
        return self.blobs / blob_name(digest)

    def partial(self, digest: str) -> Path:
        """The path of a blob while it is downloaded."""
        return self.blobs / f"{blob_name(digest)}.partial"

    def view(self, digest: str) -> Path:
        """The folder of links of a model; `digest` is the manifest's digest."""
        return self.views / blob_name(digest)

    def manifest(self, name: ModelName) -> Path:
        """The path of the manifest of a name; names that differ only in case share it."""
        host, namespace, model, tag = name.key
        return self.manifests / host / namespace / model / f"{tag}.json"


def parse_digest(text: str) -> str:
    """A digest as `sha256:<64 lower-case hex>`; accepts `sha256-` too. Raises InvalidModelFile."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidModelFile("a digest must be sha256: and 64 hexadecimal digits")
    return f"sha256:{match[1].lower()}"


def blob_name(digest: str) -> str:
    """The file name of a digest's blob."""
    return parse_digest(digest).replace(":", "-")


def parse_blob_name(file_name: str) -> str | None:
    """The digest in the file name of a blob, a partial or one of its `state_paths`; else None."""
    stem = file_name.removesuffix(".json").removesuffix(".live").removesuffix(".partial")
    match = _BLOB_NAME.fullmatch(stem)
    return None if match is None else f"sha256:{match[1]}"


def state_paths(partial: Path) -> tuple[Path, Path]:
    """The files with the resume state of a partial: the one of the last sync, and the newest."""
    return partial.with_name(f"{partial.name}.json"), partial.with_name(f"{partial.name}.live.json")


def checked_path(text: str) -> str:
    """A stored file's relative path, unchanged. Raises InvalidModelFile when it is unsafe."""
    parts = text.split("/")
    if (
        len(text) > _MAX_PATH
        or _BAD_PATH.search(text)
        or any(p in ("", ".", "..") or p != p.strip(" ") or len(p.encode()) > 255 for p in parts)
        or PurePosixPath(text).is_absolute()
    ):
        raise InvalidModelFile("a file of the model has a name that cannot be stored")
    return text
