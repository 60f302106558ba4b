"""Secrets in the Keychain of macOS: the file of such a secret refers to it.

    keychain:user-3f9c2a10 sha256:<64 hex>       the item's account, and the hash of the secret

`macos/keychain.py` moves secrets there; services only read them. Whoever needs the hash alone, as
the api does for its keys, does not ask the Keychain. Standard library only: the launcher of macOS
uses this before anything is installed.
"""

from __future__ import annotations

import errno
import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

SERVICE = "spindll"
# Longer than a person needs for a dialog, shorter than what waits for a service to start.
_SECONDS = 45.0
_REFERENCE = re.compile(rb"keychain:([\w.-]+) sha256:([0-9a-f]{64})\s*")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a file says about a secret in the Keychain."""

    account: str
    digest: str  # hexadecimal SHA-256 of the secret

    @property
    def line(self) -> str:
        """The content of the file."""
        return f"keychain:{self.account} sha256:{self.digest}\n"


def parse_reference(content: bytes) -> Reference | None:
    """The reference in the content of a file; None for any other content."""
    found = _REFERENCE.fullmatch(content)
    return Reference(found[1].decode(), found[2].decode()) if found else None


def refers_to_keychain(path: Path) -> bool:
    """Whether the secret of a file is in the Keychain; False where the file cannot be read."""
    try:
        return parse_reference(path.read_bytes()) is not None
    except OSError:
        return False


def read_secret(path: Path) -> bytes:
    """The secret of a file, from the Keychain where the file refers to it. Raises OSError."""
    content = path.read_bytes()
    reference = parse_reference(content)
    if reference is None:
        return content
    secret = find_item(reference.account)
    if secret is None or hashlib.sha256(secret).hexdigest() != reference.digest:
        reason = "the Keychain is locked, or has no such secret"
        raise PermissionError(errno.EACCES, reason, str(path))
    return secret


def find_item(account: str) -> bytes | None:
    """The secret of an item; None where the Keychain does not hand it out."""
    try:
        done = subprocess.run(
            ["security", "find-generic-password", "-s", SERVICE, "-a", account, "-w"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.removesuffix(b"\n")
