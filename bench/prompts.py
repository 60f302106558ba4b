"""Build the requests of a measurement: reproducible texts of plain words with a chosen length.

There are three kinds, because servers cache them differently: prompts that share nothing, prompts
that share a long prefix (a system prompt), and chats that grow by one turn per request.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
class LoadRequest:
    """One request: a text to continue, or the messages of a chat."""

    max_tokens: int
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] = ()  # (role, content)
    may_cache: bool = False

    @property
    def path(self) -> str:
        """The endpoint of the request."""
        return "/v1/chat/completions" if self.prompt is None else "/v1/completions"

    def encode_body(self, model: str, extra: Mapping[str, Any]) -> bytes:
        """Encode a greedy, streamed request that ignores end-of-answer tokens as JSON."""
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


def build_text(words: int, seed: int) -> str:
    """Build a text of `words` words. Another seed gives another text from the first words on."""
    rng = random.Random(seed)
    return " ".join(rng.choices(_WORDS, k=words))


def build_distinct(count: int, *, words: int, max_tokens: int, seed: int) -> list[LoadRequest]:
    """Build prompts that share a prefix only by chance."""
    return [
        LoadRequest(prompt=build_text(words, seed * 100_003 + index), max_tokens=max_tokens)
        for index in range(count)
    ]


def vary_lengths(requests: list[LoadRequest], *, seed: int) -> list[LoadRequest]:
    """Give each request between half and one and a half times its tokens.

    With equal lengths, clients that began together stay in step, and all prompts come at once.
    """
    rng = random.Random(seed)
    return [
        replace(each, max_tokens=round(each.max_tokens * rng.uniform(0.5, 1.5)))
        for each in requests
    ]


def build_shared_prefix(
    count: int, *, prefix_words: int, words: int, max_tokens: int, seed: int
) -> list[LoadRequest]:
    """Build prompts with one long prefix, like a system prompt; the server may cache them."""
    prefix = build_text(prefix_words, seed)
    return [
        LoadRequest(
            prompt=f"{prefix} {build_text(words, seed * 100_003 + index + 1)}",
            max_tokens=max_tokens,
            may_cache=True,
        )
        for index in range(count)
    ]


def build_chat_turns(turns: int, *, words: int, max_tokens: int, seed: int) -> list[LoadRequest]:
    """Build one chat, turn by turn: each request repeats all earlier turns.

    The assistant's turns are made up; they are not the answers of the server.
    """
    messages: list[tuple[str, str]] = [("system", build_text(words, seed))]
    requests = []
    for turn in range(turns):
        messages.append(("user", build_text(words, seed * 1009 + 2 * turn + 1)))
        requests.append(
            LoadRequest(messages=tuple(messages), max_tokens=max_tokens, may_cache=True)
        )
        messages.append(("assistant", build_text(words, seed * 1009 + 2 * turn + 2)))
    return requests
