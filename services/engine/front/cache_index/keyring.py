"""The keys of the prompt cache: one data key for each tenant and epoch, derived from one secret.

    SECRETS/cache/master.key            32 random bytes, made at the first start; on a Mac they may
                                        be in the Keychain (services/shared/keychain.py)
    SECRETS/cache/tenants/<tag>.json    a tenant's epochs: an id and a salt for each, newest first

    data key = HKDF-SHA256(master key, salt of the epoch, tenant)

The salts are random, so a tenant whose file is removed has lost its data keys for good: what was
sealed with them is unreadable from then on, wherever a copy of it is. A new epoch changes the key
of new entries; older ones are read with the older epochs until those are dropped.

A tag is a keyed hash, so that neither file names nor Redis name tenants. Several engines that share
a cache share this folder too. Small local files, read on the event loop.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.engine.core import CacheKey
from services.shared.errors import InvalidSettings
from services.shared.keychain import parse_reference, read_secret
from services.shared.secret_files import (
    STALE_DRAFT_SECONDS,
    create_secret,
    remove_drafts,
    replace_secret,
)
from services.shared.store.durable import sync_folder
from services.shared.structs import resolved

MAX_EPOCHS = 4  # of a tenant; what older ones sealed is no longer read
_KEY_BYTES = 32
_ID_BYTES = 16
_TAG_CHARS = 32
_DATA_KEY_INFO = b"spindll prompt cache, data key of tenant "
_PRIVATE_KEY_INFO = b"spindll prompt cache, private key"
_TAG_INFO = b"spindll prompt cache, tag of tenant "
_PREFIX_INFO = b"spindll prompt cache, named prefix "


class _Epoch(msgspec.Struct, frozen=True):
    id: bytes
    salt: bytes
    created: int  # seconds since 1970


@resolved
class _TenantFile(msgspec.Struct, frozen=True):
    tenant: str
    epochs: tuple[_Epoch, ...]  # newest first


class Keyring:
    """The data keys of all tenants. Event loop only."""

    def __init__(self, folder: Path) -> None:
        """Reads the master key, or makes it. InvalidSettings: it cannot be read or made."""
        self._tenants_folder = folder / "tenants"
        self._keys: dict[
            str, tuple[int, tuple[CacheKey, ...]]
        ] = {}  # by tag; with its file's mtime
        self._tags: dict[bytes, str] = {}  # by key id
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._tenants_folder.mkdir(mode=0o700, exist_ok=True)
            self._master = _read_or_make_master(folder / "master.key")
        except OSError as error:
            raise InvalidSettings(
                f"the key of the prompt cache in {folder} cannot be read or made: {error.strerror}"
            ) from error

    def tag(self, tenant: str) -> str:
        """The name of a tenant in the index and in file names: 32 hex digits."""
        return hmac.digest(self._master, _TAG_INFO + tenant.encode(), "sha256").hex()[:_TAG_CHARS]

    def name_prefix(self, tenant: str, name: str) -> str:
        """The name of the file of a tenant's named prefix: 32 hex digits."""
        content = _PREFIX_INFO + tenant.encode() + b"\0" + name.encode()
        return hmac.digest(self._master, content, "sha256").hex()[:_TAG_CHARS]

    def get(self, tenant: str, private_key: bytes = b"") -> tuple[CacheKey, ...]:
        """A tenant's keys, newest first; makes its first one.

        A private key makes further keys, which only who knows it can derive. Raises OSError.
        """
        tag = self.tag(tenant)
        keys = self._read(tag)
        if keys is None:
            self._write(tag, tenant, ())
            keys = self._read(tag) or ()
        if not private_key:
            return keys
        return tuple(
            CacheKey(key.id, _derive(key.secret + private_key, b"", _PRIVATE_KEY_INFO))
            for key in keys
        )

    def rotate(self, tenant: str) -> None:
        """Begin a new epoch of a tenant."""
        tag = self.tag(tenant)
        with self._locked():
            self._write(tag, tenant, self._read_file(tag))

    def rotate_all(self) -> None:
        """Begin a new epoch of every tenant."""
        with self._locked():
            for path in self._tenants_folder.glob("*.json"):
                if (file := _decode(path)) is not None:
                    self._write(path.stem, file.tenant, file.epochs)

    def forget(self, tenant: str) -> bool:
        """Destroy a tenant's keys; whether there were any."""
        tag = self.tag(tenant)
        keys = self._read(tag)
        self._keys.pop(tag, None)
        for key in keys or ():
            self._tags.pop(key.id, None)
        with self._locked():
            remove_drafts(self._tenants_folder, self._path(tag).name)  # they have the salts too
            try:
                self._path(tag).unlink()
            except FileNotFoundError:
                return False
            sync_folder(self._tenants_folder)
        return True

    def forget_all(self) -> None:
        """Destroy the keys of every tenant."""
        self._keys.clear()
        self._tags.clear()
        with self._locked():
            remove_drafts(self._tenants_folder)
            for path in self._tenants_folder.glob("*.json"):
                path.unlink(missing_ok=True)
            sync_folder(self._tenants_folder)

    def sweep(self) -> None:
        """Remove what killed writers left: the salts of keys, also of dropped ones. OSError."""
        remove_drafts(self._tenants_folder, older_than_seconds=STALE_DRAFT_SECONDS)

    def find_tag(self, key_id: bytes) -> str | None:
        """The tag of the tenant that a key belongs to; None where it has none any more."""
        if key_id not in self._tags:
            for path in self._tenants_folder.glob("*.json"):
                self._read(path.stem)
        return self._tags.get(key_id)

    def find_key(self, key_id: bytes) -> CacheKey | None:
        """The key with this id, if its tenant still has it."""
        tag = self.find_tag(key_id)
        keys = self._read(tag) if tag is not None else None
        return next((key for key in keys or () if key.id == key_id), None)

    def _read(self, tag: str) -> tuple[CacheKey, ...] | None:
        """The keys of a file, which is read again when it has changed."""
        try:
            changed = self._path(tag).stat().st_mtime_ns
        except FileNotFoundError:
            return None
        known = self._keys.get(tag)
        if known is not None and known[0] == changed:
            return known[1]
        file = _decode(self._path(tag))
        if file is None:
            return None
        keys = tuple(
            CacheKey(
                epoch.id, _derive(self._master, epoch.salt, _DATA_KEY_INFO + file.tenant.encode())
            )
            for epoch in file.epochs
        )
        self._keys[tag] = changed, keys
        self._tags |= {key.id: tag for key in keys}
        return keys

    def _read_file(self, tag: str) -> Sequence[_Epoch]:
        file = _decode(self._path(tag))
        return file.epochs if file is not None else ()

    def _write(self, tag: str, tenant: str, epochs: Sequence[_Epoch]) -> None:
        """Add an epoch. Of two engines that make the first one, the later takes the earlier's."""
        newest = _Epoch(os.urandom(_ID_BYTES), os.urandom(_KEY_BYTES), int(time.time()))
        file = _TenantFile(tenant, (newest, *epochs)[:MAX_EPOCHS])
        path = self._path(tag)
        data = msgspec.json.encode(file)
        if epochs:
            replace_secret(path, data)
        else:
            create_secret(path, data)
        sync_folder(self._tenants_folder)
        self._keys.pop(tag, None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Change keys alone: the rotation of one engine could bring back what another destroys."""
        with (self._tenants_folder / ".lock").open("ab") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, tag: str) -> Path:
        return self._tenants_folder / f"{tag}.json"


def _decode(path: Path) -> _TenantFile | None:
    """A tenant's file; None where there is none. A broken one counts as none: its keys are lost."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_TenantFile)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        path.unlink(missing_ok=True)
        return None


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=salt, info=info).derive(secret)


def _read_or_make_master(path: Path) -> bytes:
    if not path.exists():
        create_secret(path, os.urandom(_KEY_BYTES))
        sync_folder(path.parent)
    master = path.read_bytes()
    if parse_reference(master) is not None:
        master = bytes.fromhex(read_secret(path).decode())
    if len(master) != _KEY_BYTES:
        raise InvalidSettings(f"{path} is not a key of {_KEY_BYTES} bytes: remove or restore it")
    return master
