"""A conversation as the text its model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

from protos import engine_pb2
from services.api.prompts.adapt import canonical
from services.api.prompts.control import Disguise, strings_of
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
    """What to render. `options` are further variables of the template."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


def chat_prompt(manifest: Manifest, conversation: Conversation) -> engine_pb2.PromptText:
    """The prompt, with BOS where the model wants one.

    InvalidRequest when the model has no template, or its template refuses the conversation;
    InvalidModelFile when the template itself is broken. Compiles a template it has not seen (0.1 s
    and more): call it off the event loop.
    """
    description = manifest.description
    if description.chat_template is None:
        raise InvalidRequest(
            f"{manifest.name} has no chat template: it completes text (/v1/completions) only",
            param="model",
        )
    template, traits = _compiled(
        description.chat_template, description.bos_token, description.eos_token
    )
    _check_options(conversation.options)
    messages, tools = canonical(
        with_defaults(manifest, conversation.messages), conversation.tools, traits
    )
    everything = chain(
        [description.chat_template], strings_of([messages, tools, dict(conversation.options)])
    )
    disguise = Disguise(description.control_tokens, everything)
    rendered = _rendered(template, disguise, messages, tools, conversation)
    pieces = disguise.pieces(_with_bos(rendered, description))
    return engine_pb2.PromptText(pieces=pieces, add_special=False)


def with_defaults(manifest: Manifest, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation after the model's own system prompt and example messages, as in Ollama."""
    own: list[dict[str, Any]] = []
    if manifest.system and not (messages and messages[0]["role"] == "system"):
        own.append({"role": "system", "content": manifest.system})
    if not manifest.messages:
        return [*own, *messages]
    leading = 1 if messages and messages[0]["role"] == "system" else 0
    return [*own, *messages[:leading], *map(dict, manifest.messages), *messages[leading:]]


def _rendered(
    template: ChatTemplate,
    disguise: Disguise,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    conversation: Conversation,
) -> str:
    hidden = [disguise.put_on(message) for message in messages]
    continues = conversation.continue_final_message
    marker = disguise.marker() if continues else ""
    if continues:
        hidden[-1] = _ending_in(hidden[-1], marker)
    rendered = template.render(
        hidden,
        tools=None if tools is None else [disguise.hide(tool) for tool in tools],
        add_generation_prompt=conversation.add_generation_prompt and not continues,
        **disguise.hide(dict(conversation.options)),
    )
    if not continues:
        return rendered
    if marker not in rendered:
        raise InvalidRequest(
            "this model's template cannot continue a message", param="continue_final_message"
        )
    return rendered[: rendered.rindex(marker)]


def _ending_in(message: dict[str, Any], marker: str) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + marker}
    return {
        **message,
        "content": [*content[:-1], {"type": "text", "text": content[-1]["text"] + marker}],
    }


def _with_bos(rendered: str, description: Description) -> str:
    """Templates may or may not write BOS; the tokenizer is told to add nothing."""
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
def _compiled(
    source: str, bos_token: str | None, eos_token: str | None
) -> tuple[ChatTemplate, TemplateTraits]:
    template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    return template, probe(template)
