"""What is derived from the key of a tenant: names of entries, tags, and the key of each file."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.engine.core import CacheKey, CacheKind

_NAMES = b"spindll prompt cache 1: names"
_SEALING = b"spindll prompt cache 1: sealing"
_FILE = b"spindll prompt cache 1: file"


@dataclass(frozen=True, slots=True, eq=False)
class DerivedKey:
    """Two keys that tell nothing of each other, nor of the one that they are derived from."""

    id: bytes
    name_key: bytes = field(repr=False)
    sealing_key: bytes = field(repr=False)

    @classmethod
    def derive(cls, key: CacheKey) -> DerivedKey:
        """Raises ValueError where the lengths of a key are not 16 and 32 bytes."""
        if len(key.id) != 16 or len(key.secret) != 32:
            raise ValueError("a cache key has an id of 16 bytes and a secret of 32")
        return cls(key.id, _derive(key.secret, _NAMES), _derive(key.secret, _SEALING))

    def build_name(self, kind: CacheKind, node: bytes, slot: int) -> str:
        """The name of an entry: 64 hexadecimal digits."""
        message = kind.encode() + node + bytes([slot])
        return hmac.digest(self.name_key, message, "sha256").hex()

    def build_tail_tag(self, content: bytes) -> bytes:
        """The tag, 16 bytes, by which a snapshot is known among those of its node."""
        return hmac.digest(self.name_key, b"tail" + content, "sha256")[:16]

    def derive_file_key(self, salt: bytes) -> bytes:
        """The key, 32 bytes, of the one file with this salt."""
        return _derive(self.sealing_key, _FILE, salt)


def _derive(secret: bytes, info: bytes, salt: bytes | None = None) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)
