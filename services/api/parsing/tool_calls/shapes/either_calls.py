"""Calls of two dialects in one answer: the form that the prompt describes, or the model's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from services.api.parsing.parts import OutputParser
from services.api.parsing.tool_calls.base import Schema, ToolDialect, Tools
from services.api.parsing.tool_calls.shapes.answer_parser import MarkedCalls, open_answer


@runtime_checkable
class MarkedDialect(ToolDialect, MarkedCalls, Protocol):
    """A dialect whose calls begin with markers."""


@dataclass(frozen=True, slots=True)
class EitherCalls:
    """Reads both dialects; a constraint writes the first."""

    first: MarkedDialect
    second: MarkedDialect
    handles_reasoning: bool = False

    @property
    def name(self) -> str:
        """See `ToolDialect`."""
        return f"{self.first.name} or {self.second.name}"

    @property
    def trigger(self) -> str:
        """See `ToolDialect`."""
        return self.first.trigger

    @property
    def shapes_text(self) -> bool:
        """See `ToolDialect`."""
        return self.first.shapes_text or self.second.shapes_text

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        return open_answer(tools, self.first, self.second)

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`."""
        return self.first.describe_call(name, schema, special_tokens)
