"""The `cache` commands against the real routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.app import app
from services.cli.commands.cache import format_row
from tests.api.conftest import Api, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine


def run(api: Api, *arguments: str, key: str | None = None) -> Result:
    environment = {"SPINDLL_URL": api.url, "SPINDLL_API_KEY": key or api.admin_key}
    return CliRunner().invoke(app, ["cache", *arguments], env=environment)


@pytest.fixture
async def api(tmp_path: Path, redis_url: str) -> AsyncIterator[Api]:
    engine = ScriptedEngine()
    await engine.start()
    put_model(tmp_path / "data" / "models", make_manifest())
    async with running_api(tmp_path, redis_url, engine) as running:
        yield running
    await engine.stop()


def test_a_tier_is_one_line_with_what_went_wrong() -> None:
    tier = {
        "name": "disk",
        "bytes": 2_500_000,
        "budget_bytes": 10_000_000_000,
        "entries": 7,
        "stored": 9,
        "hits": 3,
        "read_bytes": 1_500_000,
        "saved_seconds": 79.5,
        "rejected": {"authentication": 1},
        "not_written": "no space",
    }

    assert format_row(tier) == [
        "disk", "2.5 MB", "10.0 GB", "7", "9", "3", "1.5 MB", "79 s",
        "1 rejected (authentication), not written: no space",
    ]  # fmt: skip


async def test_a_user_key_shows_the_bytes_of_its_own_tenant(api: Api) -> None:
    shown = await asyncio.to_thread(run, api, key=api.user_key)

    assert shown.exit_code == 0, shown.exception
    assert "disk" in shown.stdout
    assert "10.0 GB" in shown.stdout


async def test_named_prefixes_are_shown_and_forgotten(api: Api) -> None:
    shown = await asyncio.to_thread(run, api)
    unpinned = await asyncio.to_thread(run, api, "unpin", "rules", "--tenant", "bob")

    assert (shown.exit_code, unpinned.exit_code) == (0, 0)
    rows = [line.split()[:5] for line in shown.stdout.splitlines()[-2:]]
    assert rows == [["rules", who, "tiny:latest", "900", "768"] for who in ("alice", "bob")]
    assert unpinned.stdout == "rules is not kept any more\n"
    deletion = api.engine.calls[-1]
    assert (deletion.tenant, deletion.name) == ("bob", "rules")


async def test_the_commands_show_clear_and_rotate(api: Api) -> None:
    shown = await asyncio.to_thread(run, api)
    cleared = await asyncio.to_thread(run, api, "clear", "--model", "tiny", "--unused-days", "1")
    tenant = await asyncio.to_thread(run, api, "clear", "--tenant", "alice")
    rotated = await asyncio.to_thread(run, api, "rotate")

    assert [r.exit_code for r in (shown, cleared, tenant, rotated)] == [0, 0, 0, 0]
    assert "2.5 MB" in shown.stdout
    assert cleared.stdout == "deleted 2 entries, 5.0 MB freed\n"
    first, second, rotation = api.engine.calls[2:]
    assert (first.model, first.older_than_seconds) == ("tiny:latest", 86_400)
    assert not first.HasField("tenant")
    assert second.tenant == "alice"
    assert not rotation.HasField("tenant")
