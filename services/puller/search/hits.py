"""What a search asks for, and how what it found looks. Pure.

A hit is what a pull would take: `choose` decides on a repository's file names as it does then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from services.puller.sources.base import Format, Listing
from services.puller.sources.file_selection import Choice, Wanted, choose, quantizations
from services.shared.errors import InvalidModelName, PullFailed
from services.shared.model_name import DEFAULT_TAG, OLLAMA_HOST, ModelName, Source
from services.shared.search import SearchHit
from services.shared.store.manifest import FileRole
from services.shared.structs import resolved

_BITS = re.compile(r"(?<![0-9])([2-8])-?bit", re.IGNORECASE)
_WEIGHTS = frozenset({FileRole.MODEL, FileRole.PROJECTOR, FileRole.ADAPTER, FileRole.DRAFT})


@dataclass(frozen=True, slots=True)
class Repository:
    """One that can be pulled, as a list of the hub shows it: without sizes."""

    id: str
    paths: tuple[str, ...]
    choice: Choice
    downloads: int | None = None
    is_gated: bool = False
    is_private: bool = False


@resolved
class _Config(msgspec.Struct, frozen=True):
    file_type: str = ""


def exact_name(text: str) -> ModelName | None:
    """What the text names in Ollama's own registry. Others are asked by pulls alone: whoever may
    search must not be able to send us to any host."""
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return None
    return name if name.source is Source.OLLAMA and name.host == OLLAMA_HOST else None


def hub_text(text: str) -> str:
    """What to ask the hub for: its names are `owner/repo`, with the size after a dash."""
    try:
        name = ModelName.parse(text)
    except InvalidModelName:
        return text
    if name.source is Source.HUB:
        return name.repo
    is_tagged = name.tag_given and name.tag != DEFAULT_TAG
    return f"{name.model}-{name.tag}" if is_tagged else name.model


def choice_of(repo: str, paths: tuple[str, ...], fmt: Format) -> Choice | None:
    """What a pull would take of a repository; None when it would fail."""
    try:
        is_hub_name = ModelName.parse(repo).source is Source.HUB
        return choose(paths, Wanted(format=fmt)) if is_hub_name else None
    except (InvalidModelName, PullFailed):
        return None


def hub_hit(found: Repository, sizes: Mapping[str, int]) -> SearchHit:
    """A repository with what is known of its files' sizes."""
    choice = found.choice
    chosen = [path for _, path in choice.files]
    ggufs = quantizations(found.paths)
    bits = _BITS.search(found.id)
    label = choice.quantization if choice.format == "gguf" else f"{bits[1]}bit" if bits else None
    return SearchHit(
        name=_name(found, has_gguf=bool(ggufs)),
        source="huggingface",
        format=choice.format,
        quantization=label,
        quantizations=ggufs if choice.format == "gguf" else (),
        size_bytes=sum(sizes[p] for p in chosen) if sizes.keys() >= set(chosen) else None,
        downloads=found.downloads,
        gated=found.is_gated,
        private=found.is_private,
    )


def registry_hit(listing: Listing) -> SearchHit:
    """A model of the registry; its size is the layers' that hold weights."""
    label = None
    for small in listing.small_files:
        if small.role is FileRole.CONFIG:
            label = msgspec.json.decode(small.data, type=_Config).file_type.lower() or None
    return SearchHit(
        name=str(listing.name),
        source="ollama",
        format=listing.format,
        quantization=label,
        quantizations=(label,) if label else (),
        size_bytes=sum(file.size_bytes for file in listing.files if file.role in _WEIGHTS),
    )


def _name(found: Repository, *, has_gguf: bool) -> str:
    """The text that pulls just these files, on any platform."""
    if found.choice.format == "mlx":
        return f"{found.id}:mlx" if has_gguf else found.id
    label = found.choice.quantization
    name = ModelName.parse(f"{found.id}:{label.upper() if label else 'gguf'}")
    return str(name) if name.source is Source.HUB else found.id
