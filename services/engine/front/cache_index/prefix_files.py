"""The named prefixes: prompts that are kept computed, as sealed files.

    FOLDER/<32 hex>     one prefix; the name is a keyed hash of the tenant and the prefix's name

    magic       8   b"spindlp1"
    key id     16   of the tenant's data key
    salt       16   random; the key of this file is derived with it
    sealed          msgpack of (NamedPrefix, PrefixPrompt), ChaCha20-Poly1305, with its tag

The file's key is used once, so the nonce is zero. Magic, key id, salt and file name are
authenticated. Whose data key is destroyed loses its prefixes. Several engines may share the
folder: it is read again when it has changed. Small local files, read on the event loop.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.engine.core import CacheKey, TextPiece
from services.engine.front.cache_index.keyring import Keyring
from services.shared.secret_files import STALE_DRAFT_SECONDS, remove_drafts, replace_secret
from services.shared.store.durable import sync_folder
from services.shared.structs import resolved

_MAGIC = b"spindlp1"
_KEY_BYTES = 32
_ID_BYTES = 16
_SALT_BYTES = 16
_HEADER_BYTES = len(_MAGIC) + _ID_BYTES + _SALT_BYTES
_NONCE = bytes(12)
_KEY_INFO = b"spindll prompt cache, named prefix"
_NAME_CHARS = 32

_Version = tuple[int, int]  # inode and time of change of a file


@resolved
class NamedPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix without its prompt, and which entries of the store are pinned for it."""

    name: str
    tenant: str
    principal: str  # who made it
    model: str
    model_digest: str
    created: int  # seconds since 1970
    prompt_tokens: int = 0
    stored_tokens: int = 0
    entries: tuple[str, ...] = ()  # names


@resolved
class PrefixPrompt(msgspec.Struct, frozen=True, array_like=True):
    """The prompt, as in `Submit`."""

    pieces: tuple[TextPiece, ...] | None
    tokens: tuple[int, ...] | None
    add_special: bool = False


class PrefixFiles:
    """See the module. Every method but `read_pinned` may raise OSError."""

    def __init__(self, folder: Path, keyring: Keyring) -> None:
        """Makes the folder, readable by its owner alone."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._keyring = keyring
        self._changed: int | None = None  # the folder's mtime when it was read
        self._prefixes: dict[str, tuple[_Version, NamedPrefix]] = {}  # by the name of the file
        self._pinned: frozenset[str] = frozenset()

    def list(self, tenant: str | None = None) -> list[NamedPrefix]:
        """The prefixes of one tenant or of all, the oldest first."""
        self._refresh()
        found = [prefix for _, prefix in self._prefixes.values()]
        chosen = [prefix for prefix in found if tenant in (None, prefix.tenant)]
        return sorted(chosen, key=lambda prefix: (prefix.created, prefix.name))

    def get(self, tenant: str, name: str) -> NamedPrefix | None:
        """One prefix of a tenant."""
        self._refresh()
        found = self._prefixes.get(self._keyring.name_prefix(tenant, name))
        return None if found is None else found[1]

    def read_prompt(self, prefix: NamedPrefix) -> PrefixPrompt | None:
        """The prompt of a prefix; None where it was removed."""
        opened = self._open(self._path(prefix.tenant, prefix.name))
        return None if opened is None else opened[1]

    def read_pinned(self) -> frozenset[str]:
        """The names of the entries that are pinned; the last ones known where they cannot be read."""
        with contextlib.suppress(OSError):
            self._refresh()
        return self._pinned

    def put(self, prefix: NamedPrefix, prompt: PrefixPrompt) -> None:
        """Add or replace a prefix, sealed with the newest key of its tenant."""
        path = self._path(prefix.tenant, prefix.name)
        key = self._keyring.get(prefix.tenant)[0]
        header = _MAGIC + key.id + os.urandom(_SALT_BYTES)
        sealed = _build_cipher(key, header).encrypt(
            _NONCE, msgspec.msgpack.encode((prefix, prompt)), header + path.name.encode()
        )
        replace_secret(path, header + sealed)
        sync_folder(self._folder)
        self._changed = None

    def remove(self, prefix: NamedPrefix) -> None:
        """Remove a prefix; a missing one is fine."""
        self._path(prefix.tenant, prefix.name).unlink(missing_ok=True)
        sync_folder(self._folder)
        self._changed = None

    def seal_again(self) -> None:
        """Seal with the newest keys what older ones sealed, before those are dropped."""
        for path in self._list_paths():
            opened = self._open(path)
            if opened is not None:
                self.put(*opened)

    def sweep(self) -> None:
        """Remove what killed writers left."""
        remove_drafts(self._folder, older_than_seconds=STALE_DRAFT_SECONDS)

    def remove_unreadable(self) -> None:
        """Remove what keys sealed that are destroyed."""
        for path in self._list_paths():
            if self._open(path) is None:
                path.unlink(missing_ok=True)
        self._changed = None

    def _refresh(self) -> None:
        """Read the files that have changed."""
        changed = self._folder.stat().st_mtime_ns
        if changed == self._changed:
            return
        before, self._prefixes = self._prefixes, {}
        for path in self._list_paths():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            version = stat.st_ino, stat.st_mtime_ns
            known = before.get(path.name)
            if known is not None and known[0] == version:
                self._prefixes[path.name] = known
            elif (opened := self._open(path)) is not None:
                self._prefixes[path.name] = version, opened[0]
        self._changed = changed
        self._pinned = frozenset(
            entry for _, prefix in self._prefixes.values() for entry in prefix.entries
        )

    def _open(self, path: Path) -> tuple[NamedPrefix, PrefixPrompt] | None:
        """What a file holds; None where it is gone, changed, or its key is destroyed."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        header = data[:_HEADER_BYTES]
        key = self._keyring.find_key(header[len(_MAGIC) : -_SALT_BYTES])
        if not header.startswith(_MAGIC) or key is None:
            return None
        try:
            opened = _build_cipher(key, header).decrypt(
                _NONCE, data[_HEADER_BYTES:], header + path.name.encode()
            )
            return msgspec.msgpack.decode(opened, type=tuple[NamedPrefix, PrefixPrompt])
        except (InvalidTag, msgspec.DecodeError):
            return None

    def _list_paths(self) -> Iterator[Path]:
        yield from sorted(path for path in self._folder.iterdir() if len(path.name) == _NAME_CHARS)

    def _path(self, tenant: str, name: str) -> Path:
        return self._folder / self._keyring.name_prefix(tenant, name)


def _build_cipher(key: CacheKey, header: bytes) -> ChaCha20Poly1305:
    salt = header[-_SALT_BYTES:]
    derived = HKDF(SHA256(), _KEY_BYTES, salt=salt, info=_KEY_INFO).derive(key.secret)
    return ChaCha20Poly1305(derived)
