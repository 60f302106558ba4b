"""Random texts that a grammar accepts: letters, what JSON escapes, and pieces of the form itself."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import llguidance

BYTES = llguidance.LLTokenizer("byte")
_END = 256  # the token that ends an answer
_HOSTILE = ['"', "\\", "\n", "é", "🙂", "{", "}", "[", "]", ",", ": ", " ", "a", "b", "1", "null"]
_ESCAPES = ["\\n", '\\"', "\\\\", "\\u00e9", "\\ud83d\\ude00", "-1.5e3"]
_MOST_PIECES = 60  # that are not yet those which end values


def walk(grammar: str, seed: int) -> str:
    """A random text of the grammar. AssertionError where there is none, or no end."""
    matcher: Any = llguidance.LLMatcher(BYTES, grammar)
    rng = random.Random(seed)
    rules = "\n".join(line for line in grammar.split("\n") if "%json" not in line)
    own = [json.loads(text) for text in re.findall(r'"(?:[^"\\\n]|\\.)*"', rules)]
    pieces = [*_HOSTILE, *_ESCAPES, *filter(None, own)]
    ends = [json.loads(text) for text in re.findall(r'suffix=("(?:[^"\\\n]|\\.)*")', grammar)]
    written = b""
    for count in range(3000):
        assert not matcher.is_error(), matcher.get_error()
        if matcher.is_stopped() or (matcher.is_accepting() and rng.random() < 0.5):
            return written.decode()
        forced = matcher.compute_ff_bytes()
        piece = forced or _choose(matcher, rng, pieces, ends if count > _MOST_PIECES else None)
        assert matcher.consume_tokens(list(piece)), (written, piece)
        written += piece
    raise AssertionError(f"no end: {written!r}")


def _choose(matcher: Any, rng: random.Random, pieces: list[str], ends: list[str] | None) -> bytes:
    """Bytes that may follow; `ends` of texts, if given, come first."""
    if ends is not None:
        pieces = [*ends, '"', "}", "]", *sorted(pieces, key=len, reverse=True)]
    else:
        pieces = rng.sample(pieces, len(pieces)) if rng.random() < 0.7 else []
    for piece in pieces:
        raw = piece.encode()
        if matcher.validate_tokens(list(raw)) == len(raw):
            return raw
    mask = int.from_bytes(matcher.compute_bitmask(), "little")
    allowed = [byte for byte in range(_END) if mask >> byte & 1]
    assert allowed, "nothing may follow"
    printable = [byte for byte in allowed if 0x20 <= byte < 0x7F]
    return bytes([rng.choice(printable or allowed)])
