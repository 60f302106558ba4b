"""An api worker over real HTTP: uvicorn in this process, a scripted engine, a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from services.api.app import create_app
from services.api.process.http_server import UVICORN_OPTIONS, ApiServer
from services.api.settings import ApiSettings
from services.shared.store.manifest import Capability, Description, FileRole, Manifest, StoredFile
from services.shared.store.model_store import ModelStore
from tests.fakes.scripted_engine import ScriptedEngine, ScriptStep, delta, finished, started

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARIS: Sequence[ScriptStep] = (started(), delta("Par"), delta("is."), finished())


def make_description(**changes: Any) -> Description:
    fields: dict[str, Any] = {
        "format": "gguf",
        "architecture": "qwen2",
        "context_length": 512,
        "capabilities": (Capability.CHAT, Capability.COMPLETION),
        "chat_template": TEMPLATE,
        "eos_token": "<|im_end|>",
        "control_tokens": ("<|im_start|>", "<|im_end|>"),
    }
    return Description(**{**fields, **changes})


def make_manifest(name: str = "tiny:latest", **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": name,
        "source": "test",
        "created_at": 1_700_000_000.0,
        "files": (),
        "description": make_description(),
    }
    return Manifest(**{**fields, **changes})


def put_model(models_dir: Path, manifest: Manifest) -> None:
    """Store a model whose weights are a few bytes; no test loads it."""
    content = f"weights of {manifest.name}".encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    store = ModelStore(models_dir)
    path = store.blobs.path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    file = StoredFile(role=FileRole.MODEL, path="m.gguf", digest=digest, size_bytes=len(content))
    store.put(
        Manifest(
            **{
                **{f: getattr(manifest, f) for f in manifest.__struct_fields__},
                "files": (file,),
            }
        )
    )


class Api:
    """A running worker, its keys and its scripted engine."""

    def __init__(self, url: str, data_dir: Path, engine: ScriptedEngine, app: Any) -> None:
        self.url = url
        self.data_dir = data_dir
        self.engine = engine
        self.app = app
        self.user_key = (data_dir / "secrets" / "user.key").read_text().strip()
        self.admin_key = (data_dir / "secrets" / "admin.key").read_text().strip()

    def client(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.user_key if key is None else key}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers if key != "" else {}, timeout=30, **options
        )


@asynccontextmanager
async def running_api(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine, **settings: Any
) -> AsyncIterator[Api]:
    """Run the app under uvicorn on a free port until the block ends."""
    data_dir = tmp_path / "data"
    app = create_app(
        ApiSettings(
            **{
                "data_dir": data_dir,
                "redis_url": redis_url,
                "engine_address": engine.address or "127.0.0.1:1",
                "grpc_port": 0,
                "drain_seconds": 0.5,
                **settings,
            }
        )
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(uvicorn.Config(app, log_config=None, **UVICORN_OPTIONS), app)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not serving.done(), "the app did not start"
        await asyncio.sleep(0.005)
    try:
        yield Api(f"http://127.0.0.1:{listener.getsockname()[1]}", data_dir, engine, app)
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine({"*": PARIS})
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def api(tmp_path: Path, redis_url: str, engine: ScriptedEngine) -> AsyncIterator[Api]:
    put_model(tmp_path / "data" / "models", make_manifest())
    async with running_api(tmp_path, redis_url, engine) as running:
        yield running
