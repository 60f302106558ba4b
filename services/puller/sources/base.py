"""What a source returns: the files that make up a model, and where to download them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, Protocol

from services.puller.transport.address import Address
from services.shared.model_name import ModelName
from services.shared.store.manifest import FileRole

Format = Literal["gguf", "mlx"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download.

    Its SHA-256 `digest` verifies it, else its `git_oid` (the SHA-1 of a git blob). Without either,
    the file cannot be verified.
    """

    role: FileRole
    path: str
    address: Address
    size_bytes: int
    digest: str | None = None
    git_oid: str | None = None
    parts: int = 1  # files of weights that the model has in all

    @property
    def download_digest(self) -> str:
        """The digest that names the partial file: `digest`, else one derived from the address."""
        if self.digest is not None:
            return self.digest
        identity = f"{self.address.url}\n{self.size_bytes}\n{self.git_oid}"
        return f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file whose bytes are part of the listing."""

    role: FileRole
    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ResolveOptions:
    """What a pull requests in addition to the name."""

    format: Format | None = None
    sha256: str | None = None  # expected hex digest of a plain download
    address: str | None = field(default=None, repr=False)  # its URL with the query; a secret


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as a source offers it. `name` is the name under which it will be stored."""

    name: ModelName
    source: str
    format: Format
    files: tuple[RemoteFile, ...]
    inline_files: tuple[InlineFile, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    version: str | None = None  # what the source calls this state of the model, see Manifest


class ModelSource(Protocol):
    """A registry, a hub, or a plain web server."""

    def resolve(self, name: ModelName, options: ResolveOptions) -> Listing:
        """Return the files of the model with this name.

        ModelNotFound and PullFailed are final; SourceUnavailable is worth a retry. One pull may
        call this again when the credentials in the addresses have expired.
        """
