"""Manifests with a template, and a renderer that all tests of a process share."""

from __future__ import annotations

import atexit
import functools
from pathlib import Path
from typing import Any

from protos import engine_pb2
from services.api.prompts.render import Conversation, PromptRenderer
from services.shared.store.manifest import Description, Manifest

HERE = Path(__file__).parent / "templates"


@functools.cache
def get_renderer() -> PromptRenderer:
    renderer = PromptRenderer()
    atexit.register(renderer.close)
    return renderer


def render_prompt(manifest: Manifest, conversation: Conversation) -> engine_pb2.PromptText:
    return get_renderer().render(manifest, conversation)


def make_manifest(template: str | None, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "format": "gguf",
        "architecture": "x",
        "chat_template": template,
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    manifest_fields = {k: changes.pop(k) for k in ("system", "messages") if k in changes}
    return Manifest(
        name="m:latest",
        source="test",
        created_at=0,
        files=(),
        description=Description(**{**fields, **changes}),
        **manifest_fields,
    )


def read_template(name: str) -> str:
    return (HERE / f"{name}.jinja").read_text()


def render(template: str | None, **conversation: Any) -> str:
    prompt = render_prompt(make_manifest(template), Conversation(**conversation))
    return "".join(piece.text for piece in prompt.pieces)
