"""Move the secrets of a data directory to the Keychain, and back: for `macos/spindll`.

    keychain.py keep DATA          to the Keychain; where that refuses, they stay files
    keychain.py release DATA       back to files
    keychain.py forget DATA [NAME] delete their items, or the one of a file
    keychain.py show DATA ROLE     print an API key: `user` or `admin`

A secret never is an argument of a program, because all users see those: `security` reads its
commands from standard input. Standard library only.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.shared.keychain import (
    SERVICE,
    Reference,
    find_item,
    parse_reference,
    read_secret,
)
from services.shared.secret_files import replace_secret

_CACHE_KEY = "cache/master.key"
# Below DATA/secrets, and what of them may move. An API key that a person has chosen stays a file:
# the api refuses one that is easy to guess, and cannot do so by its hash.
_FILES = {
    "admin.key": re.compile(rb"sk-[\w-]{43}\n?"),
    "user.key": re.compile(rb"sk-[\w-]{43}\n?"),
    "hf-token": re.compile(rb"[!-~]+\n?"),
    _CACHE_KEY: re.compile(rb".{32}", re.DOTALL),
}
_SECONDS = 45.0


def main(arguments: Sequence[str]) -> int:
    """Run one of the four commands; the exit status."""
    command, data, *rest = arguments
    folder = Path(data) / "secrets"
    if command == "keep":
        return keep(folder)
    if command == "show":
        return show(folder / f"{rest[0]}.key")
    for name in rest or _FILES:
        reference = _read_reference(folder / name)
        if reference is None:
            continue
        if command == "release":
            replace_secret(folder / name, _decode(name, read_secret(folder / name)))
        _delete(reference.account)
    return 0


def keep(folder: Path) -> int:
    """Move every secret that is a file; each is deleted only after the Keychain has handed it out.

    Says where they are.
    """
    kept = [name for name, pattern in _FILES.items() if _keep_file(folder / name, name, pattern)]
    files = [name for name in _FILES if name not in kept and (folder / name).exists()]
    if kept:
        print(f"in the Keychain, as {SERVICE}: {', '.join(kept)}")
    if files:
        print(f"in files in {folder}: {', '.join(files)}")
    return 0


def show(path: Path) -> int:
    """Print an API key."""
    print(read_secret(path).decode().strip())
    return 0


def _keep_file(path: Path, name: str, pattern: re.Pattern[bytes]) -> bool:
    """Whether the secret is in the Keychain now."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    if parse_reference(content) is not None:
        return True
    if not pattern.fullmatch(content):
        return False
    secret = content.hex().encode() if name == _CACHE_KEY else content.strip()
    # Of its own: another data directory of this user has other secrets of these names.
    account = f"{path.stem}-{secrets.token_hex(4)}"
    if not _add(account, secret):
        return False
    reference = Reference(account, hashlib.sha256(secret).hexdigest())
    replace_secret(path, reference.line.encode())
    return True


def _decode(name: str, secret: bytes) -> bytes:
    """The content of the file of a secret."""
    return bytes.fromhex(secret.decode()) if name == _CACHE_KEY else secret + b"\n"


def _read_reference(path: Path) -> Reference | None:
    try:
        return parse_reference(path.read_bytes())
    except FileNotFoundError:
        return None


def _add(account: str, secret: bytes) -> bool:
    """Add an item; whether the Keychain hands it out again."""
    # In hexadecimal, which needs no quotes.
    command = f"add-generic-password -s {SERVICE} -a {account} -X {secret.hex()}\n"
    try:
        subprocess.run(
            ["security", "-i"],
            input=command.encode(),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    if find_item(account) == secret:
        return True
    _delete(account)
    return False


def _delete(account: str) -> None:
    subprocess.run(
        ["security", "delete-generic-password", "-s", SERVICE, "-a", account],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_SECONDS,
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, subprocess.SubprocessError) as problem:
        text = getattr(problem, "strerror", None) or type(problem).__name__
        sys.exit(f"spindll: {getattr(problem, 'filename', None) or 'the Keychain'}: {text}")
