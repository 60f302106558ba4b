"""Cut the source of a Go template into texts and actions, and the actions into tokens.

    Hello {{- .Name | printf "%q" }}!     TEXT, OPEN, FIELD, PIPE, NAME, STRING, CLOSE, TEXT

`{{- ` and ` -}}` remove the white space beside them. Comments leave no token. The rules are those of
the documentation of text/template.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from services.shared.templates.go_template.errors import GoTemplateError

_SPACE = " \t\r\n"
_BASES = {"0x", "0o", "0b"}
_INTEGER_LIMIT = 1 << 64
_MAX_SHOWN = 20  # characters of a template in a message


class Kind(Enum):
    """The kinds of tokens."""

    TEXT = auto()
    OPEN = auto()  # {{
    CLOSE = auto()  # }}
    STRING = auto()
    NUMBER = auto()
    FIELD = auto()  # .Name, without its dot
    VARIABLE = auto()  # $name, or $ alone
    NAME = auto()  # a keyword, a constant or a function
    DOT = auto()
    SIGN = auto()  # | ( ) , := =
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `is_joined`: no space is before it, so `.B` in `$a.B` belongs to `$a`."""

    kind: Kind
    text: str
    line: int
    is_joined: bool = False
    value: str | int | float = ""  # of a STRING or a NUMBER


_ACTION = re.compile(
    r"""
      (?P<close> (?:[ \t\r\n]+-)? \}\} )
    | (?P<space> [ \t\r\n]+ )
    | (?P<string> "(?:[^"\\\n]|\\.)*" )
    | (?P<raw> `[^`]*` )
    | (?P<char> '(?:[^'\\\n]|\\.)[^'\n]*' )
    | (?P<number> [+-]? (?: 0[xX][0-9a-fA-F_]+ | 0[oO][0-7_]+ | 0[bB][01_]+
        | (?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)? ) (?!\w) )
    | (?P<field> \.[^\W\d]\w* )
    | (?P<variable> \$\w* )
    | (?P<name> [^\W\d]\w* )
    | (?P<dot> \. )
    | (?P<sign> := | [|(),=] )
    """,
    re.VERBOSE,
)
_KINDS = {
    "field": Kind.FIELD,
    "variable": Kind.VARIABLE,
    "name": Kind.NAME,
    "dot": Kind.DOT,
    "sign": Kind.SIGN,
}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_COMMENT_END = re.compile(r"([ \t\r\n]+-)?\}\}")
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED |= {char: char for char in "\\'\""}


def lex(source: str) -> Iterator[Token]:
    """The tokens of a template, the last of them END. Raises GoTemplateError."""
    position, line = 0, 1
    trims = False  # the action before ended with -}}
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        first_line, line = line, line + text.count("\n")
        if trims:
            text = text.lstrip(_SPACE)
        if start < 0:
            yield Token(Kind.TEXT, text, first_line)
            yield Token(Kind.END, "the end of the template", line)
            return
        position = start + 2
        if _has_trim(source, position):
            text = text.rstrip(_SPACE)
            position += 1
        yield Token(Kind.TEXT, text, first_line)
        after_comment = _skip_comment(source, position, line)
        if after_comment is not None:
            end, trims = after_comment
        else:
            yield Token(Kind.OPEN, "{{", line)
            end, trims = yield from _lex_action(source, position, line)
        line += source.count("\n", start, end)
        position = end


def _has_trim(source: str, position: int) -> bool:
    after = source[position + 1 : position + 2]
    return source[position : position + 1] == "-" and (after in _SPACE or after == "/")


def _skip_comment(source: str, position: int, line: int) -> tuple[int, bool] | None:
    """Where the comment that starts here ends, and whether it trims; None without a comment."""
    start = position
    while source[start : start + 1] in _SPACE and start < len(source):
        start += 1
    if not source.startswith("/*", start):
        return None
    comment = _COMMENT.match(source, start)
    end = _COMMENT_END.match(source, comment.end()) if comment else None
    if end is None:
        raise GoTemplateError("a comment is not closed by */}}", line)
    return end.end(), end[1] is not None


def _lex_action(source: str, position: int, line: int) -> Generator[Token, None, tuple[int, bool]]:
    """The tokens of an action with its end; returns where it ends, and whether it trims."""
    end_before = position
    while True:
        match = _ACTION.match(source, position)
        if match is None:
            shown = source[position : position + _MAX_SHOWN].partition("\n")[0]
            what = f"{shown!r} is not understood" if shown else "an action is not closed"
            raise GoTemplateError(what, line)
        kind, text = str(match.lastgroup), match[0]
        is_joined = position == end_before
        position = match.end()
        if kind == "close":
            yield Token(Kind.CLOSE, "}}", line)
            return position, text != "}}"
        if kind == "space":
            line += text.count("\n")
            continue
        end_before = position
        yield _build_token(kind, text, line, is_joined=is_joined)
        line += text.count("\n")


def _build_token(kind: str, text: str, line: int, *, is_joined: bool) -> Token:
    if kind == "raw":
        return Token(Kind.STRING, text, line, value=text[1:-1].replace("\r", ""))
    if kind == "string":
        return Token(Kind.STRING, text, line, value=_unquote(text[1:-1], line))
    if kind == "char":
        char = _unquote(text[1:-1], line)
        if len(char) != 1:
            raise GoTemplateError(f"{text} is not one character", line)
        return Token(Kind.NUMBER, text, line, value=ord(char))
    if kind == "number":
        return Token(Kind.NUMBER, text, line, value=_parse_number(text, line))
    shown = text[1:] if kind == "field" else text
    return Token(_KINDS[kind], shown, line, is_joined)


def _unquote(text: str, line: int) -> str:
    def replace(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code or match[4]:
            number = int(code, 16) if code else int(match[4], 8)
            if number <= 0x10FFFF and not 0xD800 <= number < 0xE000:
                return chr(number)
        elif match[5] in _ESCAPED:
            return _ESCAPED[match[5]]
        raise GoTemplateError(f"{match[0]} is no character", line)

    return _ESCAPE.sub(replace, text)


def _parse_number(text: str, line: int) -> int | float:
    digits = text.replace("_", "")
    is_integer = digits.lstrip("+-").isdigit() or digits.lstrip("+-")[:2].lower() in _BASES
    try:
        if not is_integer:
            return float(digits)
        number = int(digits, 0 if digits.lstrip("+-")[:2].lower() in _BASES else 10)
    except ValueError as error:
        raise GoTemplateError(f"{text[:_MAX_SHOWN]} is no number", line) from error
    if abs(number) >= _INTEGER_LIMIT:
        raise GoTemplateError(f"{text[:_MAX_SHOWN]} is too large", line)
    return number
