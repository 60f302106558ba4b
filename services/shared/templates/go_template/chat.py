"""A model's Go template with the methods of ChatTemplate (`services/shared/templates/template.py`).

A template that reads `.Messages` runs once. An older one reads `.System`, `.Prompt` and `.Response`,
and runs once for each turn; for the last turn, all after `.Response` is left out, because the model
goes on there. Both are as in ollama's template package. Like Jinja templates, these run only in the
process of `renderer_main.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from services.shared.errors import InvalidModelFile
from services.shared.templates.go_template.errors import GoTemplateError, LimitExceeded
from services.shared.templates.go_template.evaluate import execute
from services.shared.templates.go_template.functions import NAMES
from services.shared.templates.go_template.limits import Budget
from services.shared.templates.go_template.messages import build_messages, build_tools
from services.shared.templates.go_template.nodes import (
    Action,
    Body,
    Field,
    Pipeline,
    Tree,
    cut_after_field,
    map_texts,
)
from services.shared.templates.go_template.parser import parse
from services.shared.templates.go_template.values import Record
from services.shared.templates.marks import build_mark
from services.shared.templates.template import MAX_SOURCE, TemplateExceeded, TemplateFailed

_THINKING_SWITCHES = ("enable_thinking", "thinking")


class GoChatTemplate:
    """One model's Go template. Creating it may raise InvalidModelFile.

    The arguments are those of ChatTemplate, and so is `marked`.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        control_tokens: Iterable[str] = (),
        mark_prefix: str = "",
    ) -> None:
        if len(source) > MAX_SOURCE:
            raise InvalidModelFile("the chat template is too long")
        try:
            tree = parse(source.replace("\r\n", "\n"), NAMES)
        except GoTemplateError as error:
            place = f", line {error.line}" if error.line else ""
            raise InvalidModelFile(
                f"the chat template is not valid Go{place}: {error.message}"
            ) from error
        if not any(text.strip() for text in tree.find_texts()):
            raise InvalidModelFile("the chat template writes nothing between the messages")
        written = "\0".join(tree.find_texts())
        found = {token for token in control_tokens if token and token in written}
        self.marked = tuple(sorted(found, key=lambda token: (-len(token), token)))
        self._tree = _with_marks(tree, self.marked, mark_prefix)
        names = self._tree.find_names()
        self._has_messages = "Messages" in names
        self._has_thinking = "Thinking" in names
        if not self._has_messages and "Response" not in names:
            response = Pipeline(1, (Field(("Response",)),))
            self._tree = replace(self._tree, body=(*self._tree.body, Action(1, response)))
        self._last_turn = cut_after_field(self._tree.body, "Response")

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text of the prompt. Raises TemplateFailed, or TemplateExceeded at its limits.

        Of the variables, `messages`, `tools`, `enable_thinking`, `thinking` and `reasoning_effort`
        count.
        """
        try:
            return self._render(variables)
        except LimitExceeded as error:
            raise TemplateExceeded("LimitExceeded", error.line, error.message) from error
        except GoTemplateError as error:
            raise TemplateFailed("GoTemplateError", error.line, error.message) from error

    def _render(self, variables: Mapping[str, Any]) -> str:
        system, messages = build_messages(variables.get("messages") or ())
        thinking = self._read_thinking(variables)
        if not self._has_messages:
            return self._render_turns(messages, thinking)
        tools = build_tools(variables.get("tools"))
        data = {"System": system, "Messages": messages, "Tools": tools, "Response": "", **thinking}
        return execute(self._tree.body, self._tree.definitions, data, Budget())

    def _read_thinking(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """What the client wants; else a model that can think does, as in Ollama."""
        given = [variables[name] for name in _THINKING_SWITCHES if name in variables]
        level = variables.get("reasoning_effort")
        level = level if isinstance(level, str) and level != "none" else ""
        return {
            "Think": bool(given[0]) if given else bool(level) or self._has_thinking,
            "ThinkLevel": level,
            "IsThinkSet": bool(given or level) or self._has_thinking,
        }

    def _render_turns(self, messages: Iterable[Record], thinking: Mapping[str, Any]) -> str:
        """A run for each turn: a system text, a question and an answer, any of which may be missing."""
        budget = Budget()
        parts: list[str] = []
        turn = {"System": "", "Prompt": "", "Response": ""}

        def run(body: Body) -> None:
            parts.append(execute(body, self._tree.definitions, {**turn, **thinking}, budget))
            turn.update({"System": "", "Prompt": "", "Response": ""})

        for message in messages:
            role, content = message.fields["Role"], message.fields["Content"]
            if role == "system":
                if turn["Prompt"] or turn["Response"]:
                    run(self._tree.body)
                turn["System"] = content
            elif role == "user":
                if turn["Response"]:
                    run(self._tree.body)
                turn["Prompt"] = content
            elif role == "assistant":
                turn["Response"] = content
        run(self._last_turn)
        return "".join(parts)


def _with_marks(tree: Tree, marked: Iterable[str], prefix: str) -> Tree:
    """The tree with a mark in place of each control token of its texts."""
    marks = {token: build_mark(prefix, number) for number, token in enumerate(marked, start=1)}
    if not marks:
        return tree
    pattern = re.compile("|".join(map(re.escape, marks)))
    return map_texts(tree, lambda text: pattern.sub(lambda match: marks[match[0]], text))
