"""Renders a conversation as the text that its model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from protos import engine_pb2
from services.api.prompts.adapt import adapt_conversation
from services.api.prompts.control import ControlTokenEscaper, iter_strings
from services.shared.errors import InvalidRequest
from services.shared.store.manifest import Description, Manifest
from services.shared.templates.template import ChatTemplate
from services.shared.templates.traits import TemplateTraits, probe

_RESERVED = frozenset(
    {"self", "messages", "tools", "add_generation_prompt", "max_seconds", "bos_token", "eos_token"}
)
_MAX_TEMPLATES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What to render. `options` are additional variables of the template."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


def render_prompt(manifest: Manifest, conversation: Conversation) -> engine_pb2.PromptText:
    """The prompt, with BOS where the model wants one.

    InvalidRequest when the model has no template or its template rejects the conversation;
    InvalidModelFile when the template itself is broken. The first call for a template compiles it,
    which takes 0.1 s or more: call it off the event loop.
    """
    description = manifest.description
    if description.chat_template is None:
        raise InvalidRequest(
            f"{manifest.name} has no chat template: it only completes text (/v1/completions)",
            param="model",
        )
    template, traits = _compile(
        description.chat_template, description.bos_token, description.eos_token
    )
    _check_options(conversation.options)
    messages, tools = adapt_conversation(
        prepend_model_messages(manifest, conversation.messages), conversation.tools, traits
    )
    texts = chain(
        [description.chat_template], iter_strings([messages, tools, dict(conversation.options)])
    )
    escaper = ControlTokenEscaper(description.control_tokens, texts)
    rendered = _render(template, escaper, messages, tools, conversation)
    pieces = escaper.split(_add_bos(rendered, description))
    return engine_pb2.PromptText(pieces=pieces, add_special=False)


def prepend_model_messages(
    manifest: Manifest, messages: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The conversation after the model's own system prompt and example messages, as in Ollama."""
    own: list[dict[str, Any]] = []
    if manifest.system and not (messages and messages[0]["role"] == "system"):
        own.append({"role": "system", "content": manifest.system})
    if not manifest.messages:
        return [*own, *messages]
    leading = 1 if messages and messages[0]["role"] == "system" else 0
    return [*own, *messages[:leading], *map(dict, manifest.messages), *messages[leading:]]


def _render(
    template: ChatTemplate,
    escaper: ControlTokenEscaper,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    conversation: Conversation,
) -> str:
    escaped = [escaper.escape_message(message) for message in messages]
    continues = conversation.continue_final_message
    marker = escaper.unused_char() if continues else ""
    if continues:
        escaped[-1] = _append_text(escaped[-1], marker)
    rendered = template.render(
        escaped,
        tools=None if tools is None else [escaper.escape(tool) for tool in tools],
        add_generation_prompt=conversation.add_generation_prompt and not continues,
        **escaper.escape(dict(conversation.options)),
    )
    if not continues:
        return rendered
    if marker not in rendered:
        raise InvalidRequest(
            "this model's template cannot continue a message", param="continue_final_message"
        )
    return rendered[: rendered.rindex(marker)]


def _append_text(message: dict[str, Any], text: str) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + text}
    return {
        **message,
        "content": [*content[:-1], {"type": "text", "text": content[-1]["text"] + text}],
    }


def _add_bos(rendered: str, description: Description) -> str:
    """Some templates write BOS themselves and others do not; the tokenizer adds none."""
    bos = description.bos_token
    if bos and description.add_bos and not rendered.startswith(bos):
        return bos + rendered
    return rendered


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name in _RESERVED or not name.isidentifier():
            raise InvalidRequest(
                f"chat_template_kwargs may not set {name!r}", param="chat_template_kwargs"
            )


@lru_cache(maxsize=_MAX_TEMPLATES)
def _compile(
    source: str, bos_token: str | None, eos_token: str | None
) -> tuple[ChatTemplate, TemplateTraits]:
    template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    return template, probe(template)
