"""The texts a measurement sends: reproducible, plain words, of a wanted length.

Three kinds, because servers cache them differently: prompts that share nothing, prompts that share a
long beginning (a system prompt), and chats that grow by a turn each time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_VOCABULARY = (
    "able about after again all also always and another any around ask back because been before best "
    "between book both boy but call came can change city close cold come could country cut day did "
    "different does door down each earth eat end enough even every eye face family far father feet few "
    "find first food for found four from gave get girl give good great group grow had hand hard has have "
    "head hear help her high him his hold home horse hot house how idea"
)
_WORDS = _VOCABULARY.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: a text to continue, or the messages of a chat."""

    max_tokens: int
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] = ()  # (role, content)
    may_cache: bool = False

    @property
    def path(self) -> str:
        """The endpoint it goes to."""
        return "/v1/chat/completions" if self.prompt is None else "/v1/completions"

    def body(self, model: str, extra: Mapping[str, Any]) -> bytes:
        """The JSON of a greedy, streamed request that runs to its last token."""
        fields: dict[str, Any] = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "cache_prompt": self.may_cache,
        }
        if self.prompt is None:
            fields["messages"] = [{"role": r, "content": c} for r, c in self.messages]
        else:
            fields["prompt"] = self.prompt
        return json.dumps(fields | dict(extra)).encode()


def text(words: int, seed: int) -> str:
    """So many words; another seed begins differently."""
    rng = random.Random(seed)
    return " ".join(rng.choices(_WORDS, k=words))


def distinct(count: int, *, words: int, max_tokens: int, seed: int) -> list[Ask]:
    """Prompts that share nothing but by accident."""
    return [
        Ask(prompt=text(words, seed * 100_003 + index), max_tokens=max_tokens)
        for index in range(count)
    ]


def shared_prefix(
    count: int, *, prefix_words: int, words: int, max_tokens: int, seed: int
) -> list[Ask]:
    """Prompts with one long beginning, as behind a system prompt; the cache may be used."""
    prefix = text(prefix_words, seed)
    return [
        Ask(
            prompt=f"{prefix} {text(words, seed * 100_003 + index + 1)}",
            max_tokens=max_tokens,
            may_cache=True,
        )
        for index in range(count)
    ]


def chat_turns(turns: int, *, words: int, max_tokens: int, seed: int) -> list[Ask]:
    """One chat, turn by turn: each request repeats all before it. Answers are made up beforehand."""
    messages: list[tuple[str, str]] = [("system", text(words, seed))]
    asks = []
    for turn in range(turns):
        messages.append(("user", text(words, seed * 1009 + 2 * turn + 1)))
        asks.append(Ask(messages=tuple(messages), max_tokens=max_tokens, may_cache=True))
        messages.append(("assistant", text(words, seed * 1009 + 2 * turn + 2)))
    return asks


def words_for(tokens: int, *, sample: Sequence[tuple[int, int]]) -> int:
    """How many words make so many tokens, going by (words, tokens) a server counted."""
    (words_a, tokens_a), (words_b, tokens_b) = sample[0], sample[-1]
    per_word = (tokens_b - tokens_a) / (words_b - words_a)
    return max(1, round((tokens - (tokens_a - per_word * words_a)) / per_word))
