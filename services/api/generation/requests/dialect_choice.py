"""Which dialect of tool calls each model writes, found once for each chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.api.parsing.tool_calls.base import ToolDialect
from services.api.parsing.tool_calls.detect import choose_dialect
from services.api.prompts.render import Conversation, PromptRenderer
from services.shared.errors import InvalidModelFile, InvalidRequest
from services.shared.store.manifest import Manifest

_MAX_TEMPLATES = 64


class DialectChoice:
    """The dialects of one worker's models. Any thread may use it."""

    def __init__(self, prompts: PromptRenderer) -> None:
        self._prompts = prompts
        self._chosen: dict[str, ToolDialect] = {}  # by the source of the template

    def choose(self, manifest: Manifest) -> ToolDialect:
        """The dialect of a model that has a template. Blocks, when it renders an unknown one."""
        template = manifest.description.chat_template or ""
        found = self._chosen.get(template)
        if found is None:
            traits = self._prompts.find_traits(manifest)
            try:
                found = choose_dialect(template, traits, lambda m: self._render(manifest, m))
            except (InvalidRequest, InvalidModelFile):  # it refuses the call that is rendered
                found = choose_dialect(template, traits)
            while len(self._chosen) >= _MAX_TEMPLATES:
                self._chosen.pop(next(iter(self._chosen)), None)
            self._chosen[template] = found
        return found

    def _render(self, manifest: Manifest, messages: Sequence[dict[str, Any]]) -> str:
        conversation = Conversation(messages=messages, add_generation_prompt=False)
        return "".join(piece.text for piece in self._prompts.render(manifest, conversation).pieces)
