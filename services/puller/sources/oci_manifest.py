"""Parse the manifest of a registry: its layers, and the role of each.

A layer of an unknown type fails the pull, because a model without one of its parts would be a
different model; so does an adapter. Parts that only add something (a projector, a draft model) are
left out until the engine reads them. The types are those of GetModel in ollama's server/images.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from services.puller.formats import engine_support
from services.puller.sources.base import RemoteFile
from services.puller.transport.address import Address
from services.shared.errors import InvalidModelFile, PullFailed
from services.shared.store.layout import parse_digest
from services.shared.store.manifest import FileRole
from services.shared.structs import decode_json, resolved

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LIST_TYPES = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
_MAX_VARIANTS = 20
_MAX_LAYERS = 1000
_MAX_BLOB_BYTES = 16 << 40
_LAYER_PREFIX = "application/vnd.ollama.image."

_ROLES = {
    "model": FileRole.MODEL,
    "projector": FileRole.PROJECTOR,
    "adapter": FileRole.ADAPTER,
    "draft": FileRole.DRAFT,
    "template": FileRole.TEMPLATE,
    "prompt": FileRole.TEMPLATE,  # the old name of a template
    "system": FileRole.SYSTEM,
    "params": FileRole.PARAMS,
    "messages": FileRole.MESSAGES,
    "license": FileRole.LICENSE,
}
_OPTIONAL = frozenset({FileRole.PROJECTOR, FileRole.DRAFT})
_IGNORED = frozenset({"embed"})  # deprecated upstream, no longer read
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
    """The fields of a registry's manifest that a pull needs."""

    schema_version: int = 0
    media_type: str = MANIFEST_TYPE
    config: Layer | None = None
    layers: tuple[Layer, ...] = ()


@resolved
class _ManifestList(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""
    manifests: tuple[msgspec.Raw, ...] = ()


@resolved
class _ListEntry(msgspec.Struct, frozen=True):
    digest: str = ""


def parse_manifest(raw: bytes) -> RegistryManifest:
    """Parse and check a manifest. Raises PullFailed, which describes the error."""
    try:
        manifest = decode_json(raw, RegistryManifest)
    except msgspec.DecodeError as error:
        raise PullFailed("the registry's manifest is not readable") from error
    if _is_list(manifest.media_type):
        raise PullFailed("the manifest is a list of variants, not one of them")
    if not manifest.layers or len(manifest.layers) > _MAX_LAYERS:
        raise PullFailed(f"the registry's manifest has {len(manifest.layers)} layers")
    return manifest


def list_variants(raw: bytes) -> tuple[str, ...] | None:
    """The digests of a list of manifests, the one for llama.cpp first; None for another manifest.

    Ollama's library makes each tag a list with a manifest for every runner. Nothing says yet how
    an entry names its runner (ollama/ollama#16590), so all of its texts are searched.
    """
    try:
        listed = decode_json(raw, _ManifestList)
    except msgspec.DecodeError:
        return None
    if not _is_list(listed.media_type) and not listed.manifests:
        return None
    entries = listed.manifests[:_MAX_VARIANTS]
    ranked = sorted(entries, key=_rank_variant)  # stable: else in the registry's order
    try:
        return tuple(decode_json(entry, _ListEntry).digest for entry in ranked)
    except msgspec.DecodeError as error:
        raise PullFailed("the registry's list of variants is not readable") from error


def _is_list(media_type: str) -> bool:
    return "index" in media_type or "manifest.list" in media_type


def _rank_variant(entry: msgspec.Raw) -> int:
    text = bytes(entry).decode(errors="replace").lower()
    if "llamacpp" in text or "llama.cpp" in text or "llama-server" in text:
        return 0
    return 2 if "mlx" in text or "safetensors" in text or "ggml" in text else 1


def build_remote_files(
    manifest: RegistryManifest, base_url: str, secret_headers: Mapping[str, str] | None
) -> tuple[RemoteFile, ...]:
    """The layers to download, each under a unique path."""
    files: list[RemoteFile] = []
    counts: dict[FileRole, int] = {}
    for layer in manifest.layers:
        role = _parse_role(layer)
        if role is None:
            continue
        if role is FileRole.ADAPTER and role not in engine_support.EXTRA_ROLES:
            raise PullFailed(engine_support.NO_ADAPTERS)
        if role in _OPTIONAL and role not in engine_support.EXTRA_ROLES:
            continue
        counts[role] = counts.get(role, 0) + 1
        number = f"-{counts[role]}" if counts[role] > 1 else ""
        digest = parse_layer_digest(layer)
        files.append(
            RemoteFile(
                role=role,
                path=f"{role.value}{number}{_SUFFIXES.get(role, '')}",
                address=Address(f"{base_url}/blobs/{digest}", secret_headers),
                size_bytes=_parse_size(layer),
                digest=digest,
            )
        )
    if FileRole.MODEL not in counts:
        raise PullFailed("the registry's manifest has no weights")
    return tuple(replace(file, parts=counts[FileRole.MODEL]) for file in files)


def has_unread_projector(manifest: RegistryManifest) -> bool:
    """Whether the manifest has a vision or audio part that is left out."""
    roles = {_parse_role(layer) for layer in manifest.layers}
    return FileRole.PROJECTOR in roles - engine_support.EXTRA_ROLES


def _parse_role(layer: Layer) -> FileRole | None:
    kind = layer.media_type.removeprefix(_LAYER_PREFIX).partition(";")[0]
    if kind in _IGNORED:
        return None
    if kind in _TENSOR_LAYERS:
        raise PullFailed(
            "this model is published as single tensors; pull its MLX repository from the hub"
            " instead"
        )
    role = _ROLES.get(kind)
    if role is None or kind == layer.media_type:
        raise PullFailed(f"the manifest has a layer of an unknown type: {layer.media_type[:100]}")
    return role


def parse_manifest_digest(text: str) -> str:
    """The digest of a manifest in a list. Raises PullFailed when it is malformed."""
    try:
        return parse_digest(text)
    except InvalidModelFile as error:
        raise PullFailed("the registry's list of variants has a malformed digest") from error


def parse_layer_digest(layer: Layer) -> str:
    """The digest of a layer. Raises PullFailed when it is malformed."""
    try:
        return parse_digest(layer.digest)
    except InvalidModelFile as error:
        raise PullFailed("the registry's manifest has a malformed digest") from error


def _parse_size(layer: Layer) -> int:
    if not 0 <= layer.size <= _MAX_BLOB_BYTES:
        raise PullFailed(f"the registry's manifest has a layer of {layer.size} bytes")
    return layer.size
