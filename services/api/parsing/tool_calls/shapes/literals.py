"""Copies values that are not JSON, Python's or Gemma's, as JSON while they arrive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from services.api.parsing.holdback import Markers
from services.api.parsing.json_copy import copy_string, parse_json, run_to_end
from services.api.parsing.text_source import Steps, TextSource

_MAX_DEPTH = 64
_MAX_WORD = 4096
_WORD = re.compile(r"[-+.\w]+")
BARE_KEY = re.compile(r"[-.$\w]+")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_PYTHON_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}
_AFTER_STRING = frozenset(("", ",", ":", ")", "]", "}", " ", "\n"))
_HEX_SIZES = {"x": 2, "u": 4, "U": 8}
Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Syntax:
    """How strings are quoted, whether a backslash escapes, and whether keys may have no quotes."""

    quotes: tuple[str, ...]
    escapes: bool
    bare_keys: bool


PYTHON = Syntax(quotes=('"', "'"), escapes=True, bare_keys=False)
GEMMA = Syntax(quotes=('<|"|>',), escapes=False, bare_keys=True)
FUNCTION_GEMMA = Syntax(quotes=("<escape>",), escapes=False, bare_keys=True)


def copy_literal(source: TextSource, emit: Emit, syntax: Syntax, depth: int = 0) -> Steps[bool]:
    """Read one value and emit it as JSON; whether it is valid and complete."""
    yield from source.spaces()
    if depth > _MAX_DEPTH:
        return False
    opened = yield from source.first_literal(("{", "[", "("))
    if opened == "{":
        return (yield from copy_members(source, emit, syntax, "}", ":", depth))
    if opened:
        return (yield from _copy_items(source, emit, syntax, "]" if opened == "[" else ")", depth))
    if (yield from _starts_string(source, syntax)):
        return (yield from _copy_string(source, emit, syntax))
    word = yield from source.peek_match(_WORD, _MAX_WORD)
    value = _WORDS.get(word, word)
    if parse_json(value)[0] in ("", "string"):
        return False
    source.take(len(word))
    emit(value)
    return True


def copy_members(
    source: TextSource, emit: Emit, syntax: Syntax, end: str, separator: str, depth: int = 0
) -> Steps[bool]:
    """Read `key separator value, …` up to the end, and emit an object."""
    emit("{")
    is_first = True
    while True:
        is_over = yield from _begin_part(source, emit, end, "}", is_first=is_first)
        if is_over is not None:
            return is_over
        is_first = False
        if not (yield from _copy_key(source, emit, syntax, is_bare=separator == "=")):
            return False
        yield from source.spaces()
        if not (yield from source.literal(separator)):
            return False
        emit(": ")
        if not (yield from copy_literal(source, emit, syntax, depth + 1)):
            return False


def _copy_key(source: TextSource, emit: Emit, syntax: Syntax, *, is_bare: bool) -> Steps[bool]:
    if (yield from _starts_string(source, syntax)):
        return (yield from _copy_string(source, emit, syntax))
    key = yield from source.peek_match(BARE_KEY, _MAX_WORD)
    if not key or not (is_bare or syntax.bare_keys):
        return False
    if source.unread == len(key):  # the text has ended, perhaps within the key
        return False
    source.take(len(key))
    emit(json.dumps(key, ensure_ascii=False))
    return True


def _copy_items(
    source: TextSource, emit: Emit, syntax: Syntax, end: str, depth: int
) -> Steps[bool]:
    emit("[")
    is_first = True
    while True:
        is_over = yield from _begin_part(source, emit, end, "]", is_first=is_first)
        if is_over is not None:
            return is_over
        is_first = False
        if not (yield from copy_literal(source, emit, syntax, depth + 1)):
            return False


def _begin_part(
    source: TextSource, emit: Emit, end: str, closes: str, *, is_first: bool
) -> Steps[bool | None]:
    """Read up to the next part of a list or an object; None where there is one.

    Otherwise whether it ended as it should; a comma may stand before the end.
    """
    yield from source.spaces()
    if (yield from source.literal(end)):
        emit(closes)
        return True
    if is_first:
        return None
    if not (yield from source.literal(",")):
        return False
    yield from source.spaces()
    if (yield from source.literal(end)):
        emit(closes)
        return True
    emit(", ")
    return None


def _starts_string(source: TextSource, syntax: Syntax) -> Steps[bool]:
    char = yield from source.need()
    return char == '"' or (char != "" and any(quote.startswith(char) for quote in syntax.quotes))


def _copy_string(source: TextSource, emit: Emit, syntax: Syntax) -> Steps[bool]:
    quote = yield from source.first_literal(syntax.quotes)
    if not quote:  # JSON's own strings are read as well
        return (yield from source.need()) == '"' and (yield from copy_string(source, emit))
    markers = Markers([quote, "\\"] if syntax.escapes else [quote])
    emit('"')
    while True:
        text, marker = yield from source.piece(markers)
        emit(json.dumps(text, ensure_ascii=False)[1:-1])
        if marker == quote and (yield from _ends_string(source, syntax)):
            emit('"')
            return True
        if not text and not marker:
            return False
        if marker == quote:
            emit(json.dumps(quote)[1:-1])
        elif marker:
            escaped = yield from _read_escape(source)
            if escaped is None:
                return False
            emit(json.dumps(escaped)[1:-1])  # as an escape: it may be half of a surrogate pair


def _ends_string(source: TextSource, syntax: Syntax) -> Steps[bool]:
    """Whether a quote ends the string. LFM2's template does not escape quotes in strings."""
    return not syntax.escapes or (yield from source.need()) in _AFTER_STRING


def _read_escape(source: TextSource) -> Steps[str | None]:
    """The character of a Python escape after its backslash; None at the end."""
    char = yield from source.need()
    if not char:
        return None
    size = _HEX_SIZES.get(char, 0)
    digits = (yield from source.need(1 + size))[1:] if size else ""
    if size and len(digits) == size and re.fullmatch("[0-9a-fA-F]+", digits):
        code = int(digits, 16)
        if code <= 0x10FFFF:
            source.take(1 + size)
            return chr(code)
    source.take(1)
    if char == "\n":
        return ""
    return _PYTHON_ESCAPES.get(char, char if char in "\\'\"" else "\\" + char)


def literal_to_json(text: str, syntax: Syntax) -> str:
    """The JSON of a complete text, or "" if it is not one value of this syntax."""
    source = TextSource()
    source.push(text)
    source.end()
    texts: list[str] = []
    is_valid = run_to_end(copy_literal(source, texts.append, syntax))
    return "".join(texts) if is_valid and not source.unread else ""
