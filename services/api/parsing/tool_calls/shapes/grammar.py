"""Writes one valid call as a Lark grammar of llguidance."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from services.shared.grammar_tokens import name_token


@dataclass(frozen=True, slots=True)
class JsonPart:
    """A JSON value of a schema."""

    schema: Any


@dataclass(frozen=True, slots=True)
class TextPart:
    """Any text up to its end, which follows it; `pattern` may say which texts."""

    end: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class PatternPart:
    """A text that a regular expression matches."""

    pattern: str


@dataclass(frozen=True, slots=True)
class ChoicePart:
    """One of these texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OptionalPart:
    """Parts that may be left out."""

    parts: tuple[GrammarPart, ...]


_ANY_TEXT = r"(.|\n)*"
GrammarPart = str | JsonPart | TextPart | PatternPart | ChoicePart | OptionalPart


def build_grammar(
    name: str, parts: Iterable[GrammarPart], special_tokens: Collection[str] = ()
) -> str:
    """The grammar of these parts, one after the other; its rules are named after the function."""
    rules: list[str] = []
    prefix = "call_" + re.sub(r"\W", "_", name.lower(), flags=re.ASCII)
    if not re.fullmatch(r"[a-z0-9_]+", name):  # names that differ only there need other rules
        prefix += f"_{zlib.crc32(name.encode()):08x}"
    body = _build_sequence(parts, prefix, rules, special_tokens)
    return "\n".join([f"start: {prefix}", f"{prefix}: {body}", *rules]) + "\n"


def _build_sequence(
    parts: Iterable[GrammarPart], prefix: str, rules: list[str], special: Collection[str]
) -> str:
    return " ".join(filter(None, (_build_part(part, prefix, rules, special) for part in parts)))


def _build_part(part: GrammarPart, prefix: str, rules: list[str], special: Collection[str]) -> str:
    if isinstance(part, str):
        return _quote(part, special)
    if isinstance(part, OptionalPart):
        return f"( {_build_sequence(part.parts, prefix, rules, special)} )?"
    if isinstance(part, PatternPart):
        return f"/{part.pattern}/"
    if isinstance(part, ChoicePart):
        return f"( {' | '.join(json.dumps(text, ensure_ascii=False) for text in part.texts)} )"
    rule = f"part_{len(rules)}_{prefix}"
    if isinstance(part, JsonPart):
        rules.append(f"{rule}: %json {json.dumps(part.schema)}")
        return rule
    return _build_text(rule, part, rules, special)


def _build_text(rule: str, part: TextPart, rules: list[str], special: Collection[str]) -> str:
    end, text = part.end, f"/{part.pattern or _ANY_TEXT}/"
    token = _find_first(end, special)
    if token is None or end[: end.index(token)].strip():
        # A text that must be long would run over its end.
        text += f" & ~/{_ANY_TEXT}{_escape(end)}{_ANY_TEXT}/" if part.pattern else ""
        rules.append(f"{rule}[suffix={json.dumps(end, ensure_ascii=False)}]: {text}")
        return rule
    # No text matches a special token, so it ends the text by itself. White space before it, which
    # the parser drops, would be read as text.
    rules.append(f"{rule}: {text}")
    return f"{rule} {_quote(end[end.index(token) :], special)}"


def _escape(text: str) -> str:
    """The text in a regular expression of a grammar."""
    return re.escape(text).replace("\\\n", r"\n").replace("/", r"\/")


def _find_first(text: str, special: Collection[str]) -> str | None:
    found = [token for token in special if token and token in text]
    return min(found, key=lambda token: (text.index(token), -len(token)), default=None)


def _quote(text: str, special: Collection[str]) -> str:
    """The text as strings and references to special tokens."""
    tokens = sorted((token for token in special if token and token in text), key=len, reverse=True)
    if not tokens:
        return json.dumps(text, ensure_ascii=False) if text else ""
    pieces = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text)
    return " ".join(
        name_token(piece) if piece in tokens else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    )
