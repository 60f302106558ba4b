"""Fingerprints of prompts: enough to find where two of them differ, and nothing of their text.

A fingerprint has a keyed hash of every field of a request, in the order in which most templates
show them, and of each long text "marks": keyed hashes of its beginnings, every 16 characters at
first and every 4096 later. The key is derived from the API key of the client, which only its holder
has: what is in Redis does not suffice to test a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import msgspec

from services.api.prompts.render import Conversation
from services.shared.structs import resolved

HASH_BYTES = 8
MARK_BYTES = 4
MAX_FIELDS = 2048
MAX_MARKS = 16_384  # of all texts together
_FINE_CHARS = 16
_COARSE_CHARS = 4096
_FINE_UNTIL = 8192  # characters of one text

Prompt = Conversation | tuple[str | tuple[int, ...], ...]
Change = Literal["differs", "moved", "added", "removed"]


@resolved
class Field(msgspec.Struct, frozen=True, array_like=True):
    """One field of a request. `path` has field names and numbers, nothing of a person's text."""

    path: str
    hash: bytes
    marks: bytes = b""  # MARK_BYTES for each boundary that lies within the text


@resolved
class Fingerprint(msgspec.Struct, frozen=True, array_like=True):
    """The fields of a prompt; the last one stands for all from there on if there are too many."""

    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a prompt differs from an earlier one.

    `character`: the texts are equal up to there at least; None where the field has no marks.
    """

    field: str
    change: Change
    character: int | None = None


def take_fingerprint(prompt: Prompt, key: bytes) -> Fingerprint:
    """The fingerprint of a prompt. Takes some ms for a large one: call it in a thread."""
    items = _list_items(prompt)
    fields, marks_left = [], MAX_MARKS
    for path, text in islice(items, MAX_FIELDS - 1):
        field = _take_field(path, text, key, max_marks=marks_left)
        fields.append(field)
        marks_left -= len(field.marks) // MARK_BYTES
    rest = next(items, None)
    if rest is not None:
        hasher = hashlib.blake2b(key=key, digest_size=HASH_BYTES)
        for path, text in (rest, *items):
            hasher.update(_encode(f"{path}\0{text}\0"))
        fields.append(Field(rest[0], hasher.digest()))
    return Fingerprint(tuple(fields))


def hash_text(text: str | bytes, key: bytes) -> bytes:
    """A keyed hash, to compare what must not be stored."""
    data = _encode(text) if isinstance(text, str) else text
    return hashlib.blake2b(data, key=key, digest_size=HASH_BYTES).digest()


def find_difference(old: Fingerprint, new: Fingerprint) -> Difference | None:
    """The first place where `new` differs; None for equal prompts."""
    for number, field in enumerate(new.fields):
        if number == len(old.fields):
            return Difference(_name_whole(field), "added")
        before = old.fields[number]
        if field == before:
            continue
        if field.path != before.path:
            return _name_change(old, new, number)
        if _was_elsewhere(old, field):
            return Difference(field.path, "moved")
        return Difference(field.path, "differs", _find_character(before, field))
    if len(old.fields) > len(new.fields):
        return Difference(_name_whole(old.fields[len(new.fields)]), "removed")
    return None


def _name_change(old: Fingerprint, new: Fingerprint, number: int) -> Difference:
    before, after = old.fields[number], new.fields[number]
    if any(field.path == after.path for field in old.fields):
        return Difference(_name_whole(before), "removed")
    return Difference(_name_whole(after), "added")


def _name_whole(field: Field) -> str:
    """A message begins with its role: where that was added or removed, the whole message was."""
    return field.path.removesuffix(".role")


def _was_elsewhere(old: Fingerprint, field: Field) -> bool:
    """Whether this is a tool that had another place."""
    group = field.path.partition("[")[0]
    return group == "tools" and any(
        other.hash == field.hash for other in old.fields if other.path.startswith("tools[")
    )


def _find_character(old: Field, new: Field) -> int | None:
    if not (old.marks and new.marks):
        return 0 if old.marks or new.marks else None
    pairs = zip(_split(old.marks), _split(new.marks), strict=False)
    equal = next(
        (number for number, (a, b) in enumerate(pairs) if a != b),
        min(len(old.marks), len(new.marks)) // MARK_BYTES,
    )
    return next(islice(_boundaries(), equal - 1, None)) if equal else 0


def _split(marks: bytes) -> Iterator[bytes]:
    return (marks[i : i + MARK_BYTES] for i in range(0, len(marks), MARK_BYTES))


def _boundaries() -> Iterator[int]:
    """The lengths of the beginnings that have a mark."""
    yield from range(_FINE_CHARS, _FINE_UNTIL + 1, _FINE_CHARS)
    position = _FINE_UNTIL
    while True:
        position += _COARSE_CHARS
        yield position


def _take_field(path: str, text: str, key: bytes, *, max_marks: int) -> Field:
    hasher = hashlib.blake2b(key=key, digest_size=HASH_BYTES)
    marks, start = bytearray(), 0
    for end in islice(_boundaries(), max_marks):
        if end > len(text):
            break
        hasher.update(_encode(text[start:end]))
        marks += hasher.digest()[:MARK_BYTES]
        start = end
    hasher.update(_encode(text[start:]))
    return Field(path, hasher.digest(), bytes(marks))


def _list_items(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """The fields of a prompt with their texts."""
    if not isinstance(prompt, Conversation):
        for number, each in enumerate(prompt):
            path = "prompt" if len(prompt) == 1 else f"prompt[{number}]"
            yield path, each if isinstance(each, str) else _to_json(each)
        return
    if prompt.is_thinking is not None:
        yield "enable_thinking", _to_json(prompt.is_thinking)
    if prompt.reasoning_effort is not None:
        yield "reasoning_effort", prompt.reasoning_effort
    if prompt.options:
        yield "chat_template_kwargs", _to_json(dict(prompt.options))
    for number, tool in enumerate(prompt.tools or ()):
        yield f"tools[{number}]", _to_json(tool)
    for number, message in enumerate(prompt.messages):
        for name, value in message.items():
            path = f"messages[{number}].{name}"
            yield path, value if isinstance(value, str) else _to_json(value)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
