"""Build the queries of a search and the hits of its answer. Pure.

A hit describes the files that a pull would download: `select_files` decides for both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from services.puller.sources.base import Format, Listing
from services.puller.sources.file_selection import (
    FileSelection,
    SelectionCriteria,
    list_quantizations,
    select_files,
)
from services.shared.errors import InvalidModelName, PullFailed
from services.shared.model_name import DEFAULT_TAG, OLLAMA_HOST, ModelName, Source
from services.shared.puller_rpc.search import SearchHit
from services.shared.store.manifest import FileRole
from services.shared.structs import decode_json, resolved

_BITS = re.compile(r"(?<![0-9])([2-8])-?bit", re.IGNORECASE)
_WEIGHTS = frozenset({FileRole.MODEL, FileRole.PROJECTOR, FileRole.ADAPTER, FileRole.DRAFT})


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that can be pulled, as the hub lists it: without file sizes."""

    id: str
    paths: tuple[str, ...]
    selection: FileSelection
    downloads: int | None = None
    is_gated: bool = False
    is_private: bool = False


@resolved
class _QuantizationConfig(msgspec.Struct, frozen=True):
    file_type: str = ""


def parse_registry_name(text: str) -> ModelName | None:
    """The model that the text names in Ollama's own registry, or None.

    Only pulls contact other registries: a search must not be able to make the puller send requests
    to an arbitrary host.
    """
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return None
    return name if name.source is Source.OLLAMA and name.host == OLLAMA_HOST else None


def build_hub_query(text: str) -> str:
    """The search text for the hub, where names are `owner/repo` with the size after a dash."""
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return text
    if name.source is Source.HUB:
        return name.repo
    is_tagged = name.tag_given and name.tag != DEFAULT_TAG
    return f"{name.model}-{name.tag}" if is_tagged else name.model


def select_hub_files(repo: str, paths: tuple[str, ...], fmt: Format) -> FileSelection | None:
    """Select the files that a pull would download; None when the pull would fail."""
    try:
        is_hub_name = ModelName.parse(repo).source is Source.HUB
        return select_files(paths, SelectionCriteria(format=fmt)) if is_hub_name else None
    except (InvalidModelName, PullFailed):
        return None


def build_hub_hit(repository: Repository, sizes: Mapping[str, int]) -> SearchHit:
    """Build the hit of a repository; `sizes` has the known file sizes by path."""
    selection = repository.selection
    selected = [path for _, path in selection.files]
    quantizations = list_quantizations(repository.paths)
    bits = _BITS.search(repository.id)
    label = (
        selection.quantization if selection.format == "gguf" else f"{bits[1]}bit" if bits else None
    )
    return SearchHit(
        name=_build_name(repository, has_gguf=bool(quantizations)),
        source="huggingface",
        format=selection.format,
        quantization=label,
        quantizations=quantizations if selection.format == "gguf" else (),
        size_bytes=sum(sizes[p] for p in selected) if sizes.keys() >= set(selected) else None,
        downloads=repository.downloads,
        gated=repository.is_gated,
        private=repository.is_private,
    )


def build_registry_hit(listing: Listing) -> SearchHit:
    """Build the hit of a model in the registry; its size is that of the layers with weights."""
    label = None
    for file in listing.inline_files:
        if file.role is FileRole.CONFIG:
            label = decode_json(file.data, _QuantizationConfig).file_type.lower() or None
    return SearchHit(
        name=str(listing.name),
        source="ollama",
        format=listing.format,
        quantization=label,
        quantizations=(label,) if label else (),
        size_bytes=sum(file.size_bytes for file in listing.files if file.role in _WEIGHTS),
    )


def _build_name(repository: Repository, *, has_gguf: bool) -> str:
    """The name that pulls exactly these files, on any platform."""
    if repository.selection.format == "mlx":
        return f"{repository.id}:mlx" if has_gguf else repository.id
    label = repository.selection.quantization
    name = ModelName.parse(f"{repository.id}:{label.upper() if label else 'gguf'}")
    return str(name) if name.source is Source.HUB else repository.id
