"""Fingerprints: where two prompts differ is found, and no text is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.api.cache_reports.fingerprint import (
    MAX_FIELDS,
    MAX_MARKS,
    Difference,
    find_difference,
    take_fingerprint,
)
from services.api.prompts.render import Conversation

KEY = b"k" * 32
SYSTEM = "You are a careful assistant. " * 20
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("read", "write", "list")
]


def chat(*contents: str, **changes: Any) -> Conversation:
    roles = ["system", *(["user", "assistant"] * len(contents))]
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return Conversation(**{"messages": messages, **changes})


def compare(old: Any, new: Any) -> Difference | None:
    return find_difference(take_fingerprint(old, KEY), take_fingerprint(new, KEY))


@pytest.mark.parametrize("position", [0, 15, 16, 131, 500, 9000, 40_000])
def test_a_changed_character_is_found_to_within_a_mark(position: int) -> None:
    text = SYSTEM * 100
    changed = f"{text[:position]}#{text[position + 1 :]}"
    difference = compare(chat(text, "hi"), chat(changed, "hi"))

    assert difference is not None
    assert (difference.field, difference.change) == ("messages[0].content", "differs")
    assert difference.character is not None
    step = 16 if position < 8192 else 4096
    assert difference.character <= position < difference.character + step


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        (chat(SYSTEM, "hi"), chat(SYSTEM, "hi"), None),
        (
            chat(SYSTEM, "hi"),
            chat(SYSTEM, "hi", "yes", "and?"),
            Difference("messages[2]", "added"),
        ),
        (chat(SYSTEM, "hi", "yes"), chat(SYSTEM, "hi"), Difference("messages[2]", "removed")),
        (
            chat(SYSTEM, "hi"),
            chat(SYSTEM, "hi", tools=TOOLS),
            Difference("tools[0]", "added"),
        ),
        (
            chat(SYSTEM, "hi", tools=TOOLS),
            chat(SYSTEM, "hi", tools=TOOLS[:2]),
            Difference("tools[2]", "removed"),
        ),
        (
            chat(SYSTEM, "hi", tools=TOOLS),
            chat(SYSTEM, "hi", tools=[TOOLS[0], TOOLS[2], TOOLS[1]]),
            Difference("tools[1]", "moved"),
        ),
        (
            chat(SYSTEM, "hi", is_thinking=True),
            chat(SYSTEM, "hi", is_thinking=False),
            Difference("enable_thinking", "differs"),
        ),
        (
            chat(SYSTEM, "hi", options={"date": "today"}),
            chat(SYSTEM, "hi", options={"date": "now"}),
            Difference("chat_template_kwargs", "differs", 0),
        ),
        (((1, 2, 3),), ((1, 2, 4),), Difference("prompt", "differs")),
        (("a", "b"), ("a", "c"), Difference("prompt[1]", "differs")),
    ],
    ids=[
        *(
            "equal",
            "a turn more",
            "a turn less",
            "tools appear",
            "a tool less",
            "tools change order",
        ),
        *("thinking", "options", "tokens", "prompts"),
    ],
)
def test_the_first_difference_is_named(old: Any, new: Any, difference: Difference | None) -> None:
    assert compare(old, new) == difference


def test_a_name_that_appears_is_not_a_change_of_what_follows() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": "again"}]
    named = [{**messages[0], "name": "alice"}, messages[1]]

    assert compare(Conversation(messages=messages), Conversation(messages=named)) == Difference(
        "messages[0].name", "added"
    )
    assert compare(Conversation(messages=named), Conversation(messages=messages)) == Difference(
        "messages[0].name", "removed"
    )


def test_a_fingerprint_has_nothing_of_the_text_and_depends_on_the_key() -> None:
    prompt = chat("the secret canary", "my canary", options={"canary": "canary"})
    own, others = (
        msgspec.json.encode(take_fingerprint(prompt, key)) for key in (KEY, b"other" * 6)
    )

    assert b"canary" not in own
    hashes = [field.hash for field in take_fingerprint(prompt, KEY).fields]
    assert not {msgspec.json.encode(each).strip(b'"') for each in hashes} & set(others.split(b'"'))


def test_the_size_of_a_fingerprint_is_bounded_whatever_the_prompt() -> None:
    many = chat(*(str(n) for n in range(5000)))
    long = chat(*("x" * 8192 for _ in range(200)))
    fingerprints = [take_fingerprint(prompt, KEY) for prompt in (many, long)]

    assert len(fingerprints[0].fields) == MAX_FIELDS
    assert sum(len(field.marks) // 4 for field in fingerprints[1].fields) == MAX_MARKS
    assert all(len(msgspec.json.encode(each)) < 300_000 for each in fingerprints)


def test_a_difference_after_the_last_field_that_is_kept_is_still_seen() -> None:
    texts = [str(n) for n in range(2000)]
    difference = compare(chat(*texts), chat(*texts[:-1], "other"))

    assert difference is not None
    assert difference.change == "differs"
