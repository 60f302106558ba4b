"""Writes one valid call as a Lark grammar of llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from services.api.parsing.tool_calls.base import Schema


@dataclass(frozen=True, slots=True)
class JsonPart:
    """A JSON value of a schema."""

    schema: Schema


@dataclass(frozen=True, slots=True)
class TextPart:
    """Any text up to its end, which follows it."""

    end: str


@dataclass(frozen=True, slots=True)
class PatternPart:
    """A text that a regular expression matches."""

    pattern: str


@dataclass(frozen=True, slots=True)
class OptionalPart:
    """Parts that may be left out."""

    parts: tuple[GrammarPart, ...]


GrammarPart = str | JsonPart | TextPart | PatternPart | OptionalPart


def build_grammar(
    name: str, parts: Iterable[GrammarPart], special_tokens: Collection[str] = ()
) -> str:
    """The grammar of these parts, one after the other; its rules are named after the function."""
    rules: list[str] = []
    prefix = "call_" + re.sub(r"\W", "_", name.lower(), flags=re.ASCII)
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
    rule = f"{prefix}_{len(rules)}"
    if isinstance(part, JsonPart):
        rules.append(f"{rule}: %json {json.dumps(dict(part.schema))}")
    else:
        rules.append(f"{rule}[suffix={json.dumps(part.end)}]: /(.|\\n)*/")
    return rule


def _quote(text: str, special: Collection[str]) -> str:
    """The text as strings and references to special tokens."""
    tokens = sorted((token for token in special if token and token in text), key=len, reverse=True)
    if not tokens:
        return json.dumps(text, ensure_ascii=False) if text else ""
    pieces = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text)
    return " ".join(
        _refer(piece) if piece in tokens else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    )


def _refer(token: str) -> str:
    """A reference to a special token; llguidance writes the name of one between `<` and `>`."""
    is_name = re.fullmatch(r"<[^<>\s]+>", token)
    return token if is_name else json.dumps(token, ensure_ascii=False)
