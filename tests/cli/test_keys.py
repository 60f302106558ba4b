"""The `keys` commands against the real routes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.commands.keys import find_key, format_row, parse_lifetime
from services.cli.errors import CommandError
from tests.api.conftest import Api, running_api
from tests.fakes.scripted_engine import ScriptedEngine

NOW = 1_795_000_000.0
KEY: dict[str, Any] = {
    "id": "key_a2410aadccee",
    "name": "alice",
    "role": "user",
    "tenant": None,
    "created_at": 1_794_000_000.0,
    "expires_at": None,
    "last_used_at": None,
    "file": None,
}
CELLS = {
    "new": ({}, ["alice", "user", "-", "2026-11-06", "never", "-"]),
    "used": (
        {"tenant": "blue", "last_used_at": NOW - 90},
        ["alice", "user", "blue", "2026-11-06", "never", "90 s ago"],
    ),
    "expires": (
        {"expires_at": NOW + 5 * 86400},
        ["alice", "user", "-", "2026-11-06", "in 5 d", "-"],
    ),
    "expired": ({"expires_at": NOW}, ["alice", "user", "-", "2026-11-06", "expired", "-"]),
    "file": (
        {"name": "admin", "role": "admin", "file": "admin.key"},
        ["admin (file admin.key)", "admin", "-", "2026-11-06", "never", "-"],
    ),
}


@pytest.mark.parametrize(("changes", "cells"), CELLS.values(), ids=CELLS.keys())
def test_a_key_is_a_row_of_the_list(changes: dict[str, Any], cells: list[str]) -> None:
    assert format_row(KEY | changes, now=NOW) == ["key_a2410aadccee", *cells]


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("45m", 2700)])
def test_a_lifetime_is_a_number_with_a_unit(text: str, seconds: int) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "2w"])
def test_any_other_lifetime_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--expires"):
        parse_lifetime(text)


def test_a_key_is_found_by_the_start_of_its_id_or_by_its_name() -> None:
    keys = [
        KEY | {"id": "key_abab00000001", "name": "alice"},
        KEY | {"id": "key_abab00000002", "name": "bob"},
        KEY | {"id": "key_cdef00000003", "name": "bob"},
        KEY | {"id": "key_eeee00000004", "name": "key_cdef00000003"},
    ]

    for text in ("key_cdef", "cdef0", "key_cdef00000003", "cdef00000003"):
        assert find_key(keys, text) == keys[2]
    assert find_key(keys, "alice") == keys[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abab", "several"),
        ("bob", "several"),
        ("zzzz", "no key"),
        ("", "no key"),
        ("key_", "no key"),
        ("ee", "no key"),  # it may be the name of a key that was revoked
        ("cafe", "several"),
    ],
)
def test_a_text_that_names_no_key_or_several_ends_none(text: str, words: str) -> None:
    keys = [
        KEY | {"id": "key_abab00000001", "name": "bob"},
        KEY | {"id": "key_abab00000002", "name": "bob"},
        KEY | {"id": "key_eeee00000004", "name": "carol"},
        KEY | {"id": "key_cafe00000005", "name": "dave"},
        KEY | {"id": "key_dddd00000006", "name": "cafe"},
    ]
    with pytest.raises(CommandError, match=words):
        find_key(keys, text)


async def run(api: Api, *arguments: str) -> tuple[str, str]:
    """The stdout and stderr of a command."""
    environment = {"SPINDLL_URL": api.url, "SPINDLL_API_KEY": api.admin_key}
    done = await asyncio.to_thread(CliRunner().invoke, app, ["keys", *arguments], env=environment)
    assert done.exception is None, done.exception
    return done.stdout, done.stderr


async def test_a_key_is_created_used_listed_and_revoked(tmp_path: Path, redis_url: str) -> None:
    async with running_api(tmp_path, redis_url, ScriptedEngine({})) as api:
        arguments = ["create", "alice", "--tenant", "blue", "--expires", "30d"]
        key, note = await run(api, *arguments)
        async with api.client(key.strip()) as client:
            before = (await client.get("/v1/models")).status_code
        listed, _ = await run(api, "list")
        revoked, _ = await run(api, "revoke", "alice")
        async with api.client(key.strip()) as client:
            while (await client.get("/v1/models")).status_code != 401:
                await asyncio.sleep(0.05)
        left, _ = await run(api, "list")

    assert (before, note.count("not shown again")) == (200, 1)
    assert key.startswith("sk-")
    assert key.strip() not in listed
    row = next(line for line in listed.splitlines() if " alice " in line).split()
    assert row[1:4] == ["alice", "user", "blue"]
    assert revoked.startswith("revoked alice (key_")
    assert " alice " not in left
