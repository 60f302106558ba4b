"""Copies one JSON value out of a text while it arrives, as far as it is valid (RFC 8259)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import TypeVar

from services.api.parsing.text_source import Steps, TextSource

Emit = Callable[[str], None]
T = TypeVar("T")

MAX_NUMBER = 4096  # characters; longer ones are not valid here
_SPACES = re.compile(r"[ \t\r\n]+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_ATOM = re.compile(r"[-+.\w]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")
_KINDS = {"true": "boolean", "false": "boolean", "null": "null"}


class _Expect(Enum):
    VALUE = auto()
    VALUE_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()


_MAY_END = frozenset({_Expect.VALUE_OR_END, _Expect.KEY_OR_END, _Expect.COMMA_OR_END})


def copy_json(source: TextSource, emit: Emit) -> Steps[str]:
    """Read one JSON value and emit its own text; return its JSON schema type, or "".

    "" is for what is not valid or not complete; then what was valid has been emitted, and what
    comes next is unread. Control characters in strings, which JSON forbids and models write, are
    emitted as escapes. A whole number is an `integer`.
    """
    kind = ""
    structure = _Structure()
    while structure.is_open or not kind:
        if spaces := source.take_match(_SPACES):
            emit(spaces)
        char = yield from source.need()
        if char and char in " \t\r\n":
            continue
        if structure.accepts(char):
            emit(source.take(1))
            found = "object" if char == "{" else "array"
        elif structure.expects_key:
            if char != '"' or not (yield from copy_string(source, emit)):
                return ""
            structure.expect = _Expect.COLON
            continue
        elif structure.expects_value:
            found = yield from _copy_scalar(source, emit, char)
            structure.expect = _Expect.COMMA_OR_END
        else:
            return ""
        if not found:
            return ""
        kind = kind or found
    return kind


class _Structure:
    """The containers that are open, and what may come next."""

    def __init__(self) -> None:
        self.expect = _Expect.VALUE
        self._ends: list[str] = []

    @property
    def is_open(self) -> bool:
        return bool(self._ends)

    @property
    def expects_key(self) -> bool:
        return self.expect in (_Expect.KEY, _Expect.KEY_OR_END)

    @property
    def expects_value(self) -> bool:
        return self.expect in (_Expect.VALUE, _Expect.VALUE_OR_END)

    def accepts(self, char: str) -> bool:
        """Whether this punctuation may come next; then it has come."""
        if char in ("{", "[") and self.expects_value:
            self._ends.append("}" if char == "{" else "]")
            self.expect = _Expect.KEY_OR_END if char == "{" else _Expect.VALUE_OR_END
        elif self._ends and char == self._ends[-1] and self.expect in _MAY_END:
            self._ends.pop()
            self.expect = _Expect.COMMA_OR_END
        elif char == "," and self.expect is _Expect.COMMA_OR_END:
            self.expect = _Expect.KEY if self._ends[-1] == "}" else _Expect.VALUE
        elif char == ":" and self.expect is _Expect.COLON:
            self.expect = _Expect.VALUE
        else:
            return False
        return True


def _copy_scalar(source: TextSource, emit: Emit, char: str) -> Steps[str]:
    if char == '"':
        return "string" if (yield from copy_string(source, emit)) else ""
    atom = yield from source.peek_match(_ATOM, MAX_NUMBER)
    kind = _KINDS.get(atom, "")
    if not kind and _NUMBER.fullmatch(atom) and len(atom) < MAX_NUMBER:
        kind = "number" if re.search("[.eE]", atom) else "integer"
    if kind:
        emit(source.take(len(atom)))
    return kind


def copy_string(source: TextSource, emit: Emit) -> Steps[bool]:
    """Read one JSON string, which is next, and emit its text; whether it is valid and complete."""
    emit(source.take(1))
    while True:
        if text := source.take_match(_PLAIN):
            emit(text)
        char = yield from source.need()
        if char == '"':
            emit(source.take(1))
            return True
        if char == "\\":
            size = yield from _measure_escape(source)
            if not size:
                return False
            emit(source.take(size))
        elif char and char < " ":
            emit(json.dumps(source.take(1))[1:-1])
        elif not char:
            return False


def _measure_escape(source: TextSource) -> Steps[int]:
    escape = yield from source.need(2)
    if escape[1:] == "u":
        escape = yield from source.need(6)
        return 6 if _UNICODE_ESCAPE.fullmatch(escape) else 0
    return 2 if escape[1:] and escape[1:] in '"\\/bfnrt' else 0


def parse_json(text: str) -> tuple[str, str]:
    """The JSON schema type of a complete text, and its valid JSON; "" and "" if it is not JSON."""
    source = TextSource()
    source.push(text)
    source.end()
    texts: list[str] = []
    kind = run_to_end(copy_json(source, texts.append))
    return (kind, "".join(texts)) if kind and not source.unread else ("", "")


def run_to_end(steps: Steps[T]) -> T:
    """The result of a reader whose source has ended, so that it never waits."""
    try:
        next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a reader waited for more of a text that has ended")
