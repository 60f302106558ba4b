"""Finds where the messages of a conversation end in its prompt, for what others can share of it.

Two chats with one system prompt part where the first user's text begins; another question after the
same turns parts where the last one's begins. The template is asked: it renders the conversation
again, with a mark before these texts. Without its marks, that must be the same prompt; a template
that looks at the texts, or refuses them, gives no cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

Message = dict[str, Any]


def mark_questions(messages: Sequence[Message], mark: str) -> list[Message]:
    """The messages with a mark before the text of the first and the last one of the user."""
    places = [place for place, message in enumerate(messages) if message["role"] == "user"]
    marked = list(messages)
    for place in {*places[:1], *places[-1:]}:
        marked[place] = _put_before(marked[place], mark)
    return marked


def find_cuts(marked: str, mark: str, prompt: str) -> list[int]:
    """The lengths of `prompt` at which its marked form has the mark; none where they differ."""
    parts = marked.split(mark)
    # A template that shows a text twice does not tell where it begins.
    if "".join(parts) != prompt or not 1 < len(parts) <= 3:
        return []
    return sorted(set(accumulate(map(len, parts[:-1]))))


def _put_before(message: Mapping[str, Any], mark: str) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _insert(content, mark)}
    if isinstance(content, list) and content:
        first = {**content[0], "text": _insert(content[0].get("text", ""), mark)}
        return {**message, "content": [first, *content[1:]]}
    return dict(message)


def _insert(text: str, mark: str) -> str:
    """The mark stands after blank space, which many templates strip."""
    start = len(text) - len(text.lstrip())
    return text[:start] + mark + text[start:]
