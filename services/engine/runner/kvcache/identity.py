"""What a stored state is bound to beside its tokens: the model, and all that shapes its memory."""

from __future__ import annotations

import hashlib

import msgspec

from services.engine.core import LoadConfig, ModelInfo
from services.engine.kv_entry import FORMAT_VERSION


class _Identity(msgspec.Struct, frozen=True):
    """Two loads with equal identities can continue each other's states."""

    format_version: int
    model_digest: str
    architecture: str
    backend: str
    cache_types: tuple[str, str]
    flash_attention: bool | None
    kv_mode: str
    memory_policy: str
    window: int
    has_long_positions: bool


def build_identity(config: LoadConfig, info: ModelInfo) -> bytes:
    """Build the hash, 32 bytes, with which each chain of this load begins.

    Where a load leaves flash attention to the backend, the identity says so, and not what was
    chosen: the state itself tells it, and `Backend.load` refuses one of the other kind.
    """
    if config.cache is None:
        raise ValueError("a load without a cache has no identity")
    identity = _Identity(
        FORMAT_VERSION,
        config.cache.model_digest,
        info.architecture,
        info.backend,
        (config.cache_type_k, config.cache_type_v),
        config.flash_attention,
        config.kv_mode,
        info.memory_policy.value,
        info.window,
        0 < info.short_context_length < info.context_length,
    )
    return hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).digest()
