"""The sealed files of the named prefixes: who can read them, and what a change does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.engine.core import TextPiece
from services.engine.front.cache_index.keyring import Keyring
from services.engine.front.cache_index.prefix_files import NamedPrefix, PrefixFiles, PrefixPrompt

PROMPT = PrefixPrompt((TextPiece("canary"),), None, add_special=True)
RULES = NamedPrefix(
    name="rules",
    tenant="alice",
    principal="key_1",
    model="tiny:latest",
    model_digest="sha256:1",
    created=7,
    prompt_tokens=900,
    stored_tokens=768,
    entries=("ab" * 32, "cd" * 32),
)
TALE = msgspec.structs.replace(RULES, name="tale", created=8, entries=("ef" * 32,))


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture
def files(tmp_path: Path, keyring: Keyring) -> PrefixFiles:
    files = PrefixFiles(tmp_path / "prefixes", keyring)
    for prefix in (TALE, RULES):
        files.put(prefix, PROMPT)
    return files


def list_paths(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "prefixes").iterdir())


def test_a_prefix_outlives_its_process(tmp_path: Path, files: PrefixFiles) -> None:
    again = PrefixFiles(tmp_path / "prefixes", Keyring(tmp_path / "keys"))

    assert again.list() == again.list("alice") == [RULES, TALE]
    assert again.list("bob") == []
    assert again.read_prompt(RULES) == PROMPT
    assert again.read_pinned() == {*RULES.entries, *TALE.entries}
    assert [path.stat().st_mode & 0o777 for path in list_paths(tmp_path)] == [0o600] * 2


_DIE_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from services.shared.secret_files import replace_secret
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
replace_secret(Path(sys.argv[1]), b"sealed")
"""


def leave_draft(path: Path, *, age_seconds: float = 0.0) -> Path:
    """What a process leaves that is killed while it writes a file."""
    before = set(path.parent.iterdir())
    died = subprocess.run([sys.executable, "-c", _DIE_WHILE_WRITING, str(path)], check=False)
    (draft,) = set(path.parent.iterdir()) - before
    os.utime(draft, (time.time() - age_seconds,) * 2)
    assert died.returncode == -signal.SIGKILL
    return draft


def test_what_a_killed_writer_left_is_swept(
    tmp_path: Path, files: PrefixFiles, keyring: Keyring
) -> None:
    paths = (list_paths(tmp_path)[0], tmp_path / "keys" / "tenants" / "alice.json")
    left = [leave_draft(path, age_seconds=3600) for path in paths]
    in_writing = [leave_draft(path) for path in paths]
    assert files.list() == [RULES, TALE]
    files.sweep()
    keyring.sweep()

    assert [path.exists() for path in (*left, *in_writing)] == [False, False, True, True]
    assert files.list() == [RULES, TALE]


def test_the_keys_of_a_tenant_are_destroyed_in_drafts_too(tmp_path: Path, keyring: Keyring) -> None:
    folder = tmp_path / "keys" / "tenants"
    for tenant in ("alice", "bob"):
        keyring.get(tenant)
    drafts = [leave_draft(folder / f"{keyring.tag(name)}.json") for name in ("alice", "bob")]
    keyring.forget("alice")
    assert [draft.exists() for draft in drafts] == [False, True]
    keyring.forget_all()
    assert not drafts[1].exists()


def test_another_engine_sees_what_has_changed(tmp_path: Path, files: PrefixFiles) -> None:
    other = PrefixFiles(tmp_path / "prefixes", Keyring(tmp_path / "keys"))
    assert len(other.list()) == 2
    changed = msgspec.structs.replace(RULES, entries=())
    files.remove(TALE)
    files.put(changed, PROMPT)

    assert other.list() == [changed]
    assert other.read_pinned() == frozenset()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
    ],
    ids=["magic", "salt", "tag", "cut", "cut header", "empty"],
)
def test_a_file_that_was_changed_is_no_prefix(
    tmp_path: Path, files: PrefixFiles, change: Callable[[bytes], bytes]
) -> None:
    for path in list_paths(tmp_path):
        path.write_bytes(change(path.read_bytes()))
    again = PrefixFiles(tmp_path / "prefixes", Keyring(tmp_path / "keys"))

    assert again.list() == []
    assert again.read_prompt(RULES) is None


def test_two_files_that_were_swapped_are_no_prefixes(tmp_path: Path, files: PrefixFiles) -> None:
    first, second = list_paths(tmp_path)
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])

    assert PrefixFiles(tmp_path / "prefixes", Keyring(tmp_path / "keys")).list() == []


def test_what_was_sealed_with_destroyed_keys_is_removed(
    tmp_path: Path, files: PrefixFiles, keyring: Keyring
) -> None:
    of_bob = msgspec.structs.replace(RULES, tenant="bob")
    files.put(of_bob, PROMPT)
    keyring.forget("alice")
    files.remove_unreadable()

    assert files.list() == [of_bob]
    assert len(list_paths(tmp_path)) == 1


def test_new_keys_seal_a_prefix_again(files: PrefixFiles, keyring: Keyring) -> None:
    for _ in range(6):  # more than are kept
        keyring.rotate("alice")
        files.seal_again()

    assert files.list() == [RULES, TALE]
