"""Renders a conversation as the text that its model continues."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protos import engine_pb2
from services.api.prompts.adapt import adapt_conversation, check_depth
from services.api.prompts.control import ControlTokens
from services.api.prompts.cut_finder import find_cuts, mark_questions
from services.shared.errors import InvalidRequest, SpindllError
from services.shared.store.manifest import Description, Manifest
from services.shared.templates.renderer import Template, TemplateRenderer
from services.shared.templates.traits import RESERVED_NAMES, TemplateTraits

_MAX_OPENED = 64
_MIN_CHARS_TO_CUT = 256  # a shorter prompt is computed as fast


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What to render. `options` are additional variables of the template.

    `is_thinking` and `reasoning_effort` set the variables that the template has for it, unless
    `options` do; None leaves both to the template. `tools_field` is the client's name of the tools,
    for errors.
    """

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    is_thinking: bool | None = None
    reasoning_effort: str | None = None  # a word that the template knows, such as "low"
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools_field: str = "tools"


@dataclass(frozen=True, slots=True)
class _Opened:
    """The opened template of one model."""

    description: Description
    template: Template
    control_tokens: ControlTokens


class PromptRenderer:
    """Renders the conversations of one worker. Any thread may call `render`, which blocks."""

    def __init__(self, templates: TemplateRenderer | None = None) -> None:
        self._templates = templates or TemplateRenderer()
        self._lock = threading.Lock()  # guards the dictionary
        self._opened: dict[int, _Opened] = {}  # by the id of its description, which it holds

    def render(
        self, manifest: Manifest, conversation: Conversation, *, finds_cuts: bool = False
    ) -> engine_pb2.PromptText:
        """The prompt, with BOS where the model wants one.

        `finds_cuts`: find where messages end too, which renders the conversation a second time.

        InvalidRequest when the model has no template or its template rejects the conversation;
        InvalidModelFile when the template itself is broken; Unavailable when this machine is too
        busy. The first call for a template takes 0.1 s or more, as it starts a process.
        """
        description = manifest.description
        _check_options(conversation.options)
        for tool in conversation.tools or ():
            check_depth(tool, conversation.tools_field)
        tokens = self._open(manifest).control_tokens
        prompt = self._render(manifest, conversation)
        bos = description.bos_token if description.add_bos else None
        # Some templates write BOS themselves and others do not; the tokenizer adds none.
        start = bos if bos and not tokens.starts_with(prompt, bos) else ""
        cuts = self._find_cuts(manifest, conversation, prompt) if finds_cuts else []
        return engine_pb2.PromptText(
            pieces=tokens.split(prompt, start=start),
            add_special=False,
            cuts=[len(start) + tokens.measure(prompt[:cut]) for cut in cuts],
        )

    def find_traits(self, manifest: Manifest) -> TemplateTraits:
        """What the model's template supports. Raises and takes time as `render` does."""
        return self._open(manifest).template.traits or TemplateTraits(failure=None)

    def close(self) -> None:
        """End the processes that render."""
        self._templates.close()

    def _render(self, manifest: Manifest, conversation: Conversation) -> str:
        """The text of the template, with marks for its control tokens."""
        opened, traits = self._open(manifest), self.find_traits(manifest)
        template, tokens = opened.template, opened.control_tokens
        messages, tools = adapt_conversation(
            prepend_model_messages(manifest, conversation.messages), conversation.tools, traits
        )
        options = _build_options(conversation, traits)
        variables = _build_variables(tokens, messages, tools, options, conversation)
        prompt = self._templates.render(template, json.dumps(variables, ensure_ascii=False))
        if conversation.continue_final_message:
            prompt = _cut_at_end(prompt, tokens.end_mark)
        return prompt

    def _find_cuts(self, manifest: Manifest, conversation: Conversation, prompt: str) -> list[int]:
        """The lengths of the text of the template at which messages of the user begin."""
        if len(prompt) < _MIN_CHARS_TO_CUT:
            return []
        mark = self._open(manifest).control_tokens.cut_mark
        messages = mark_questions(conversation.messages, mark)
        try:
            marked = self._render(manifest, dataclasses.replace(conversation, messages=messages))
        except SpindllError:  # such a template shows no place to cut
            return []
        return [cut for cut in find_cuts(marked, mark, prompt) if cut > 0]

    def _open(self, manifest: Manifest) -> _Opened:
        description, source = manifest.description, manifest.description.chat_template
        if source is None:
            raise InvalidRequest(
                f"{manifest.name} has no chat template: it only completes text (/v1/completions)",
                param="model",
            )
        # The catalog returns the same object until the model changes, and hashing thousands of
        # control tokens takes longer than a render.
        with self._lock:
            opened = self._opened.get(id(description))
        if opened is not None:
            return opened
        template = self._templates.open(
            source,
            bos_token=description.bos_token,
            eos_token=description.eos_token,
            control_tokens=description.protected_tokens,
            language=description.template_language,
        )
        tokens = ControlTokens(template, user_defined=description.user_defined_tokens)
        opened = _Opened(description, template, tokens)
        with self._lock:
            self._opened[id(description)] = opened
            if len(self._opened) > _MAX_OPENED:
                del self._opened[next(iter(self._opened))]
        return opened


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


def _build_options(conversation: Conversation, traits: TemplateTraits) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if conversation.is_thinking is not None:
        own["enable_thinking"] = conversation.is_thinking
        own[traits.thinking_switch or "enable_thinking"] = conversation.is_thinking
    if conversation.reasoning_effort is not None:
        own["reasoning_effort"] = conversation.reasoning_effort
    return {**own, **conversation.options}


def _build_variables(
    tokens: ControlTokens,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    options: Mapping[str, Any],
    conversation: Conversation,
) -> dict[str, Any]:
    escaped = [tokens.escape_message(message) for message in messages]
    if conversation.continue_final_message:
        escaped[-1] = _append_text(escaped[-1], tokens.end_mark)
    continues = conversation.continue_final_message
    return {
        **{name: tokens.escape(value) for name, value in options.items()},
        "messages": escaped,
        "tools": None if tools is None else [tokens.escape(tool) for tool in tools],
        "add_generation_prompt": conversation.add_generation_prompt and not continues,
    }


def _cut_at_end(prompt: str, mark: str) -> str:
    if mark not in prompt:
        raise InvalidRequest(
            "this model's template cannot continue a message", param="continue_final_message"
        )
    return prompt[: prompt.rindex(mark)]


def _append_text(message: dict[str, Any], text: str) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + text}
    return {
        **message,
        "content": [*content[:-1], {"type": "text", "text": content[-1]["text"] + text}],
    }


def _check_options(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in RESERVED_NAMES or not name.isidentifier():
            raise InvalidRequest(
                f"chat_template_kwargs may not set {name!r}", param="chat_template_kwargs"
            )
        check_depth(value, "chat_template_kwargs")
