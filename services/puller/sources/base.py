"""What a source must answer: which files make up a model, and where their bytes are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, Protocol

from services.puller.transport.http_client import Address
from services.shared.model_name import ModelName
from services.shared.store.manifest import FileRole

Format = Literal["gguf", "mlx"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch. Without a sha256 `digest` its bytes are what they are, unless `git_oid`
    (sha1 of a git blob) says more."""

    role: FileRole
    path: str
    address: Address
    size_bytes: int
    digest: str | None = None
    git_oid: str | None = None

    @property
    def download_digest(self) -> str:
        """The digest that names the partial file: `digest`, or one derived from the address.

        No finished blob can have a derived digest.
        """
        if self.digest is not None:
            return self.digest
        identity = f"{self.address.url}\n{self.size_bytes}\n{self.git_oid}"
        return f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file whose bytes came with the listing."""

    role: FileRole
    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for beside the name."""

    format: Format | None = None
    sha256: str | None = None  # of a plain download, hex


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as a source has it. `name` is what it will be stored as."""

    name: ModelName
    source: str
    format: Format
    files: tuple[RemoteFile, ...]
    small_files: tuple[SmallFile, ...] = ()
    warnings: tuple[str, ...] = field(default=())


class Source(Protocol):
    """A registry, a hub, or a plain server."""

    def resolve(self, name: ModelName, order: Order) -> Listing:
        """What to fetch for a name.

        ModelNotFound and PullFailed are final; SourceUnavailable is worth another try. May be
        called again during one pull, when the credentials in the addresses have expired.
        """
