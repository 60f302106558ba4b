"""A small dialect of tool calls: `<call>name {"json": 1}</call>`, in one delta each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from services.api.parsing.parts import CallArguments, CallEnded, CallStarted, Content, Part


class TagParser:
    """Reads whole calls; `half` begins one that never ends. Records what it was fed."""

    def __init__(self) -> None:
        self._calls = 0

    def feed(self, text: str) -> list[Part]:
        parts: list[Part] = []
        while "<call>" in text:
            before, _, text = text.partition("<call>")
            call, _, text = text.partition("</call>")
            name, _, arguments = call.partition(" ")
            index, self._calls = self._calls, self._calls + 1
            parts += [Content(before)] if before else []
            parts += [CallStarted(index, f"id{index}", name), CallArguments(index, arguments)]
            parts += [CallEnded(index)] if arguments.endswith("}") else []
        return [*parts, Content(text)] if text else parts

    def finish(self) -> list[Part]:
        return []


class TagDialect:
    """The dialect; `tools` are those it was opened with."""

    name = "tag"
    trigger = "<call>"
    handles_reasoning = False
    shapes_text = False

    def __init__(self) -> None:
        self.tools: Mapping[str, Any] = {}

    def open(self, tools: Mapping[str, Mapping[str, Any]]) -> TagParser:
        self.tools = tools
        return TagParser()

    def describe_call(
        self, name: str, schema: Mapping[str, Any], special_tokens: Collection[str] = ()
    ) -> str:
        raise AssertionError("nothing is forced here")


class OneSyntax(TagDialect):
    """As if it read the thinking too."""

    handles_reasoning = True
