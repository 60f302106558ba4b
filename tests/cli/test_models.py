"""`cp`, `show` and `list` against the real routes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from typer.testing import CliRunner

from services.cli.app import app
from tests.api.conftest import make_description, make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine


async def test_a_model_is_copied_and_shown(tmp_path: Path, redis_url: str) -> None:
    description = make_description(warnings=("Its template is odd.",))
    manifest = make_manifest("tiny:latest", description=description, params={"top_k": 5})
    put_model(tmp_path / "data" / "models", manifest)
    async with running_api(tmp_path, redis_url, ScriptedEngine({})) as api:
        environment = {"SPINDLL_URL": api.url, "SPINDLL_API_KEY": api.admin_key}

        async def run(*arguments: str) -> str:
            done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
            return done.output if done.exception is None else str(done.exception)

        copied = await run("cp", "tiny", "my/assistant:1")
        shown = (await run("show", "my/assistant:1")).splitlines()
        missing = await run("show", "huge")

    assert copied == "my/assistant:1 is a copy of tiny:latest\n"
    assert shown[:2] == ["warning: Its template is odd.", "model               my/assistant:1"]
    assert "option top_k        5" in shown
    assert shown[-1] == "file                m.gguf, model, 22 B"
    assert missing == "no model named 'huge'; stored models: my/assistant:1, tiny:latest"
