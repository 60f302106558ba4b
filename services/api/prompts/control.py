"""Tells the control tokens that a chat template writes from the same text in people's messages.

    template ─► compiled with marks for its own control tokens (services/shared/templates/marks.py)
    prompt   ─► a mark is a control token; any other text that spells one was typed by a person

A rendered prompt is tokenised with control tokens recognised. The text between two control tokens
becomes a literal piece when it spells a token: literal pieces never yield control tokens. So it
does not matter what the template cuts or joins. Prompts without such text (nearly all) are one
plain piece.

Some templates put control tokens together while they render: `'<|' + message.role + '|>'`. Such
tokens have no mark; `disguise.py` keeps people's text apart from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from protos import engine_pb2
from services.api.prompts.disguise import Disguise, Replacement
from services.shared.errors import InvalidRequest
from services.shared.templates.marks import build_mark
from services.shared.templates.renderer import Template
from services.shared.token_search import compile_search, has_overlap, may_overlap

# Marks of thinking, which templates search earlier answers for to leave the thinking out.
_THINKING = frozenset({"<think>", "</think>"})
MAX_PIECES = 8192
_BARRIER = "\0"  # in place of a literal run, which no token spans


class ControlTokens:
    """The control tokens of one model in the prompts of its template. Any thread may use it.

    `user_defined` are those of the template's control tokens that llama.cpp matches in literal
    pieces too.
    """

    def __init__(self, template: Template, *, user_defined: Iterable[str] = ()) -> None:
        prefix, user_defined = template.mark_prefix, frozenset(user_defined)
        # For the caller: the end of a text, and a place in one.
        self.end_mark = build_mark(prefix, 0)
        self.cut_mark = build_mark(prefix, len(template.marked) + 1)
        self._mark_to_text = {
            build_mark(prefix, number): token for number, token in enumerate(template.marked, 1)
        }
        kept = {t: m for m, t in self._mark_to_text.items() if t in _THINKING | user_defined}
        self._answer_marks = Replacement(kept)
        self._disguise = Disguise(
            template.composed, prefix=prefix, first_mark=len(template.marked) + 2
        )
        self._search = compile_search(template.control_tokens)
        self._cut_search = compile_search(token for token in user_defined if len(token) > 1)
        self._may_overlap = may_overlap(template.control_tokens)
        real = compile_search([*self._mark_to_text, *template.composed])
        self._real = re.compile(f"({real.pattern})") if real is not None else None

    def escape_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message to render. Marks of thinking in an answer stay control tokens."""
        is_answer = message.get("role") == "assistant"
        return {
            key: value
            if key == "role"
            else self.escape(self._answer_marks.apply(value) if is_answer else value)
            for key, value in message.items()
        }

    def escape(self, value: Any) -> Any:
        """Any JSON value of a person, to render."""
        return self._disguise.apply(value)

    def starts_with(self, prompt: str, token: str) -> bool:
        """Whether a rendered prompt starts with this control token."""
        first = self._real.match(prompt) if self._real is not None else None
        return first is not None and self._mark_to_text.get(first[0], first[0]) == token

    def measure(self, prompt: str) -> int:
        """The length of a rendered prompt, or the beginning of one, in characters of its pieces."""
        parts = self._real.split(prompt) if self._real is not None else [prompt]
        runs = sum(len(self._disguise.undo(run)) for run in parts[::2])
        return runs + sum(len(self._mark_to_text.get(token, token)) for token in parts[1::2])

    def split(self, prompt: str, *, start: str = "") -> list[engine_pb2.TextPiece]:
        """The pieces of `start`, a control token or nothing, and the rendered prompt after it.

        InvalidRequest when people's text spells control tokens so often that there would be too
        many pieces.
        """
        # tokens[n], runs[n], tokens[n + 1], …: a run is the text between two control tokens.
        parts = self._real.split(prompt) if self._real is not None else [prompt]
        runs = [self._disguise.undo(run) for run in parts[::2]]
        tokens = [start, *(self._mark_to_text.get(token, token) for token in parts[1::2])]
        search = self._search
        are_literal = [search is not None and bool(search.search(run)) for run in runs]
        if self._may_overlap and search is not None:
            both = zip(runs, are_literal, strict=True)
            plain_runs = [_BARRIER if is_literal else run for run, is_literal in both]
            if has_overlap(search, plain_runs, tokens):
                are_literal = [True] * len(runs)
        return self._build_pieces(runs, tokens, are_literal)

    def _build_pieces(
        self, runs: Iterable[str], tokens: Iterable[str], are_literal: Iterable[bool]
    ) -> list[engine_pb2.TextPiece]:
        pieces: list[engine_pb2.TextPiece] = []
        plain: list[str] = []
        for token, run, is_literal in zip(tokens, runs, are_literal, strict=True):
            plain.append(token)
            if not is_literal:
                plain.append(run)
                continue
            pieces += _build_plain(plain)
            plain.clear()
            for part in self._cut(run):
                pieces.append(engine_pb2.TextPiece(text=part, literal=True))
                if len(pieces) > MAX_PIECES:
                    raise InvalidRequest(
                        "the messages spell control tokens too often", param="messages"
                    )
        return [*pieces, *_build_plain(plain)]

    def _cut(self, text: str) -> Iterator[str]:
        """A literal text, cut inside each user-defined token, since no token spans two pieces."""
        start = 0
        while self._cut_search is not None and (match := self._cut_search.search(text, start)):
            cut = match.start() + len(match[0]) // 2
            yield from self._cut(text[start:cut])  # a half may contain a shorter token
            start = cut
        if start < len(text):
            yield text[start:]


def _build_plain(texts: Iterable[str]) -> list[engine_pb2.TextPiece]:
    text = "".join(texts)
    return [engine_pb2.TextPiece(text=text)] if text else []
