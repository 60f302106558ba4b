"""gpt-oss: messages with a channel and a recipient in their header (OpenAI's harmony format).

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

The prompt ends with `<|start|>assistant`, so an answer begins inside a header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.api.parsing.holdback import Markers
from services.api.parsing.json_copy import copy_json
from services.api.parsing.parts import OutputParser
from services.api.parsing.reasoning_marks import ReasoningMarks
from services.api.parsing.text_source import Steps, TextSource
from services.api.parsing.tool_calls.base import CallWriter, NewId, Schema, Tools, new_openai_id
from services.api.parsing.tool_calls.shapes.answer_parser import AnswerParser
from services.api.parsing.tool_calls.shapes.grammar import (
    GrammarPart,
    JsonPart,
    OptionalPart,
    TextPart,
    build_grammar,
)

_MAX_HEADER = 256
_START, _MESSAGE = "<|start|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_HEADER = Markers([_MESSAGE, *_ENDS])
_BODY = Markers([_START, *_ENDS])
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.:/-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_THINKING = ReasoningMarks("<|channel|>analysis<|message|>", "<|end|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmony:
    """The dialect of gpt-oss, with its reasoning."""

    name: str = "harmony"
    trigger: str = "<|channel|>commentary to=functions."
    handles_reasoning: bool = True
    shapes_text: bool = True
    marks: ReasoningMarks = _THINKING
    new_id: NewId = new_openai_id

    def open(self, tools: Tools) -> OutputParser:
        """See `ToolDialect`."""
        source, writer = TextSource(), CallWriter(tools, self.new_id)
        return AnswerParser(source, writer, _read_messages(source, writer))

    def describe_call(self, name: str, schema: Schema, special_tokens: Collection[str] = ()) -> str:
        """See `ToolDialect`."""
        before = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        return build_grammar(name, [before, JsonPart(schema), "<|call|>"], special_tokens)

    def describe_before(self, special_tokens: Collection[str] = (), *, is_call: bool) -> str:
        """See `ThinkingDialect`."""
        thinking: list[GrammarPart] = [
            "<|channel|>analysis<|message|>",
            TextPart("<|end|>"),
            "<|start|>assistant",
        ]
        answer = "" if is_call else "<|channel|>final<|message|>"
        return build_grammar("before", [OptionalPart(tuple(thinking)), answer], special_tokens)


def _read_messages(source: TextSource, writer: CallWriter) -> Steps[None]:
    while (yield from source.need()):
        header, end = yield from source.peek_until(_HEADER, _MAX_HEADER)
        is_header = end == _MESSAGE and _is_header(header)
        if not is_header:
            # A model without a header, or the rest of a broken one, is as it was written.
            yield from _copy_body(source, writer.content)
            continue
        source.hold()
        source.take(len(header) + len(end))
        recipient = _RECIPIENT.search(header)
        channel = _CHANNEL.search(header)
        if recipient and writer.knows(recipient[1]):
            source.release()
            yield from _read_call(source, writer, recipient[1])
        elif recipient:
            writer.content(source.release())
            yield from _copy_body(source, writer.content)
        else:
            source.release()
            is_thought = channel is not None and channel[1] == "analysis"
            yield from _copy_body(source, writer.reasoning if is_thought else writer.content)


def _is_header(text: str) -> bool:
    rest = _CHANNEL.sub("", _RECIPIENT.sub("", text)).replace("<|constrain|>", " ")
    return bool(re.fullmatch(r"(?:\s|<\|start\|>|assistant|json|code)*", rest))


def _read_call(source: TextSource, writer: CallWriter, name: str) -> Steps[None]:
    writer.start(name)
    yield from source.spaces()
    if (yield from source.need()) == "{" and (yield from copy_json(source, writer.arguments)):
        writer.end()
        yield from source.spaces()
        yield from source.first_literal(_ENDS)
    else:
        writer.is_in_call = False
        yield from _copy_body(source, writer.content)


def _copy_body(source: TextSource, emit: Callable[[str], None]) -> Steps[None]:
    """Read a message to its end, which is dropped."""
    while True:
        text, marker = yield from source.piece(_BODY)
        emit(text)
        if marker or not text:
            return


HARMONY = Harmony()
