"""The contract of a dialect, and the parts that every dialect writes.

A dialect is the form in which a family of models writes tool calls. Whitespace directly before
and after a call is dropped, as OpenAI's clients expect. Any other text that is not a call is
content, as it was written. What broke off after its name is a call without an end.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from services.api.parsing.parts import (
    CallArguments,
    CallEnded,
    CallStarted,
    Content,
    OutputParser,
    Part,
    Reasoning,
)
from services.api.parsing.reasoning_marks import ReasoningMarks
from services.shared.limits import MAX_FUNCTION_NAME

Schema = Mapping[str, Any]  # JSON schema of the arguments of one function
Tools = Mapping[str, Schema]  # by function name
NewId = Callable[[int, str], str]  # from the index and the name of a call

_LETTERS = string.ascii_letters + string.digits
MAX_NAME = MAX_FUNCTION_NAME + 64  # characters of a function name with what surrounds it


class ToolDialect(Protocol):
    """One form of tool calls. Immutable; any thread may use it."""

    @property
    def name(self) -> str:
        """Its name in the documentation and in logs."""

    @property
    def handles_reasoning(self) -> bool:
        """Whether its parser yields `Reasoning` itself, so that no other parser has to."""

    @property
    def trigger(self) -> str:
        """The text that begins a call, where a lazy constraint starts; "" if there is none.

        One that is JSON itself begins a call only at the start of an answer.
        """

    @property
    def shapes_text(self) -> bool:
        """Whether answers without calls have texts around them that are no content."""

    def open(self, tools: Tools) -> OutputParser:
        """A parser for one answer. What calls none of these tools is content."""

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """A Lark grammar of llguidance whose `start` is one call, from the trigger to its end.

        Texts of `special_tokens`, the control tokens of the model, become references to tokens.
        Rules are named after the function, so that the grammars of several tools can be joined.
        """


@runtime_checkable
class ThinkingDialect(ToolDialect, Protocol):
    """A dialect whose syntax includes the thinking."""

    @property
    def marks(self) -> ReasoningMarks:
        """The texts around what is thought first."""

    def describe_before(self, special_tokens: Collection[str] = (), *, is_call: bool) -> str:
        """A Lark grammar of all that may come before a call, or before the text of an answer."""


def new_openai_id(_index: int, _name: str) -> str:
    """An id as OpenAI writes it."""
    return "call_" + _random(24)


def new_mistral_id(_index: int, _name: str) -> str:
    """Nine letters and digits: Mistral's templates accept nothing else."""
    return _random(9)


def new_kimi_id(index: int, name: str) -> str:
    """The form that Kimi's template shows in results."""
    return f"functions.{name}:{index}"


def _random(size: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(size))


class CallWriter:
    """Collects the parts of one answer: one part for texts of one kind that follow each other."""

    def __init__(self, tools: Tools, new_id: NewId) -> None:
        self.tools = tools
        self._new_id = new_id
        self._index = -1
        self._ids: set[str] = set()
        self._parts: list[Part] = []
        self._texts: list[str] = []
        self._build: Callable[[str], Part] = Content
        self.is_in_call = False  # it has begun, and neither ended nor turned out to be broken
        self.is_at_start = True  # only whitespace was written since the start or the last call

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return self._index + 1

    def knows(self, name: str) -> bool:
        """Whether this is the name of a declared function."""
        return name in self.tools

    def content(self, text: str) -> None:
        """Write text that is not a call."""
        self._write(Content, text)
        if self.is_at_start:
            self.is_at_start = not text or text.isspace()

    def reasoning(self, text: str) -> None:
        """Write text that the model thinks."""
        self._write(Reasoning, text)

    def start(self, name: str, id_: str = "") -> None:
        """Begin a call; the id is made up if the model wrote none, or one that it wrote before."""
        self._flush()
        self._index += 1
        if not id_ or id_ in self._ids:
            id_ = self._new_id(self._index, name)
        self._ids.add(id_)
        self.is_in_call = True
        self._parts.append(CallStarted(index=self._index, id=id_, name=name))

    def arguments(self, text: str) -> None:
        """Write more of the call's arguments, which are JSON."""
        self._write(self._build_arguments, text)

    def end(self) -> None:
        """End the call, which is complete."""
        self._flush()
        self._parts.append(CallEnded(index=self._index))
        self.is_in_call = False
        self.is_at_start = True

    def take(self) -> list[Part]:
        """The parts since the last time."""
        self._flush()
        parts, self._parts = self._parts, []
        return parts

    def _build_arguments(self, text: str) -> Part:
        return CallArguments(index=self._index, fragment=text)

    def _write(self, build: Callable[[str], Part], text: str) -> None:
        if not text:
            return
        if build != self._build:
            self._flush()
            self._build = build
        self._texts.append(text)

    def _flush(self) -> None:
        if self._texts:
            self._parts.append(self._build("".join(self._texts)))
            self._texts.clear()
