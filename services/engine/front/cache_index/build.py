"""Builds the prompt cache from the settings."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

import psutil

from services.engine.core import CacheTier
from services.engine.front.cache_index.index import CacheIndex
from services.engine.front.cache_index.keyring import Keyring
from services.engine.front.cache_index.pinned_prefixes import PinnedPrefixes
from services.engine.front.cache_index.prefix_files import PrefixFiles
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.cache_index.tier_folder import TierFolder
from services.engine.front.cache_index.tier_manager import TierManager
from services.engine.memory.budget import compute_cache_bytes, parse_cache_size
from services.engine.settings import EngineSettings
from services.shared.errors import InvalidSettings
from services.shared.redis.redis_client import connect_async

_REDIS_TIMEOUT_SECONDS = 5.0
# Of a tmpfs, so that it is not full when its budget is exceeded: what others do there would fail.
_MAX_RAM_SHARE = 0.75

logger = logging.getLogger(__name__)


def build_prompt_cache(settings: EngineSettings) -> PromptCache:
    """Build the cache; one without tiers where it is off, or where its folders cannot be used."""
    wanted: list[tuple[CacheTier, str, Path]] = [
        ("ram", settings.cache_ram, _ram_folder(settings)),
        ("disk", settings.cache_disk, settings.cache_folder),
    ]
    folders = [
        (folder, size)
        for tier, text, path in wanted
        if (size := _measure(tier, text, path)) and (folder := _open_folder(path, tier))
    ]
    if not folders:
        return PromptCache()
    try:
        keyring = Keyring(settings.cache_secrets_folder)
    except InvalidSettings as error:
        logger.error("prompts are not stored", extra={"reason": error.message})
        return PromptCache()
    connection = connect_async(
        settings.redis_url, settings.redis_password_file, timeout_seconds=_REDIS_TIMEOUT_SECONDS
    )
    prefix_files = _open_prefix_files(settings, keyring)
    lasting, _ = folders[-1]
    tiers = [
        TierManager(
            folder,
            CacheIndex(connection, folder.id, prefix_files.read_pinned)
            if prefix_files is not None and folder is lasting
            else CacheIndex(connection, folder.id),
            keyring.find_tag,
            budget_bytes=size,
            tenant_bytes=int(size * settings.cache_tenant_share),
        )
        for folder, size in folders
    ]
    free = parse_cache_size(settings.cache_min_free)
    total = shutil.disk_usage(lasting.path).total
    return PromptCache(
        keyring,
        tiers,
        connection,
        write=settings.cache_write,
        min_free_bytes=compute_cache_bytes(free, total),
        prefixes=PinnedPrefixes(prefix_files, tiers[-1], tenant_share=settings.cache_pinned_share)
        if prefix_files is not None
        else None,
    )


def _open_prefix_files(settings: EngineSettings, keyring: Keyring) -> PrefixFiles | None:
    """On the disk also where entries are in RAM alone: they can be computed again."""
    folder = settings.cache_folder / "prefixes"
    try:
        return PrefixFiles(folder, keyring)
    except OSError as error:
        logger.error("no named prefixes", extra={"folder": str(folder), "reason": error.strerror})
        return None


def _ram_folder(settings: EngineSettings) -> Path:
    """A folder of this user and this data directory: all users write to that file system."""
    data = hashlib.sha256(str(settings.data_dir).encode()).hexdigest()[:16]
    return settings.cache_ram_folder / f"spindll-{os.getuid()}-{data}"


def _measure(tier: CacheTier, text: str, path: Path) -> int:
    """The budget in bytes."""
    size = parse_cache_size(text)
    if size.size_bytes == 0:
        return 0
    if tier == "ram":
        wanted = compute_cache_bytes(size, psutil.virtual_memory().total)
        return min(wanted, int(_measure_file_system(path) * _MAX_RAM_SHARE))
    return compute_cache_bytes(size, _measure_file_system(path))


def _measure_file_system(path: Path) -> int:
    """The bytes of the file system that a folder is in, or will be in."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).total


def _open_folder(path: Path, tier: CacheTier) -> TierFolder | None:
    try:
        return TierFolder(path, tier)
    except OSError as error:
        logger.error(
            "prompts are not stored", extra={"folder": str(path), "reason": error.strerror}
        )
        return None
