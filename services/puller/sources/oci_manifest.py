"""A registry's manifest: which layers there are, what each is for, and what must not be in it.

All layers are kept; one of a type we do not know fails the pull, because serving a model without a
part of it would be a different model. Types: ollama's server/images.go, GetModel.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from services.puller.sources.base import RemoteFile
from services.puller.transport.http_client import Address
from services.shared.errors import InvalidModelFile, PullFailed
from services.shared.store.layout import parse_digest
from services.shared.store.manifest import FileRole
from services.shared.structs import resolved

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_MAX_LAYERS = 1000
_MAX_BLOB_BYTES = 16 << 40
_LAYER_PREFIX = "application/vnd.ollama.image."

_ROLES = {
    "model": FileRole.MODEL,
    "projector": FileRole.PROJECTOR,
    "adapter": FileRole.ADAPTER,
    "draft": FileRole.DRAFT,
    "template": FileRole.TEMPLATE,
    "prompt": FileRole.TEMPLATE,  # the older name of the same
    "system": FileRole.SYSTEM,
    "params": FileRole.PARAMS,
    "messages": FileRole.MESSAGES,
    "license": FileRole.LICENSE,
}
_IGNORED = frozenset({"embed"})  # deprecated upstream, read by nobody
_TENSOR_LAYERS = frozenset({"tensor", "json"})
_SUFFIXES = {
    FileRole.MODEL: ".gguf",
    FileRole.PROJECTOR: ".gguf",
    FileRole.ADAPTER: ".gguf",
    FileRole.DRAFT: ".gguf",
    FileRole.PARAMS: ".json",
    FileRole.MESSAGES: ".json",
    FileRole.LICENSE: ".txt",
}


class Layer(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of a manifest."""

    media_type: str
    digest: str
    size: int


@resolved
class RegistryManifest(msgspec.Struct, frozen=True, rename="camel"):
    """A registry's manifest, as far as it concerns us."""

    schema_version: int = 0
    media_type: str = MANIFEST_TYPE
    config: Layer | None = None
    layers: tuple[Layer, ...] = ()


def parse_manifest(raw: bytes) -> RegistryManifest:
    """A manifest's content, checked; PullFailed says what is wrong with it."""
    try:
        manifest = msgspec.json.decode(raw, type=RegistryManifest)
    except msgspec.DecodeError as error:
        raise PullFailed("the registry's manifest is not readable") from error
    if "index" in manifest.media_type or "manifest.list" in manifest.media_type:
        raise PullFailed("the registry offers a list of variants, which is not supported yet")
    if not manifest.layers or len(manifest.layers) > _MAX_LAYERS:
        raise PullFailed(f"the registry's manifest has {len(manifest.layers)} layers")
    return manifest


def files_of(
    manifest: RegistryManifest, base: str, secrets: Mapping[str, str] | None
) -> tuple[RemoteFile, ...]:
    """The layers worth fetching, each with a name of its own."""
    files: list[RemoteFile] = []
    counts: dict[FileRole, int] = {}
    for layer in manifest.layers:
        role = _role(layer)
        if role is None:
            continue
        counts[role] = counts.get(role, 0) + 1
        number = f"-{counts[role]}" if counts[role] > 1 else ""
        digest = checked_digest(layer)
        files.append(
            RemoteFile(
                role=role,
                path=f"{role.value}{number}{_SUFFIXES.get(role, '')}",
                address=Address(f"{base}/blobs/{digest}", secrets),
                size_bytes=_size(layer),
                digest=digest,
            )
        )
    if FileRole.MODEL not in counts:
        raise PullFailed("the registry's manifest names no weights")
    return tuple(files)


def _role(layer: Layer) -> FileRole | None:
    kind = layer.media_type.removeprefix(_LAYER_PREFIX).partition(";")[0]
    if kind in _IGNORED:
        return None
    if kind in _TENSOR_LAYERS:
        raise PullFailed(
            "this model is published as single tensors; pull its MLX repository from the hub instead"
        )
    role = _ROLES.get(kind)
    if role is None or kind == layer.media_type:
        raise PullFailed(f"the manifest has a layer of an unknown type: {layer.media_type[:100]}")
    return role


def checked_digest(layer: Layer) -> str:
    """The layer's digest; PullFailed when it is not one."""
    try:
        return parse_digest(layer.digest)
    except InvalidModelFile as error:
        raise PullFailed("the registry's manifest has a malformed digest") from error


def _size(layer: Layer) -> int:
    if not 0 <= layer.size <= _MAX_BLOB_BYTES:
        raise PullFailed(f"the registry's manifest has a layer of {layer.size} bytes")
    return layer.size
