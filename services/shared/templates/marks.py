"""Marks: what stands for control tokens in the text that a template writes.

When a template is compiled, each control token in its own text becomes a mark. In the rendered
prompt the marks are real control tokens; the same text without a mark was typed by a person, however
the template cut it or joined it. A mark is a secret prefix and one character, all private use, so
no client can type one.
"""

from __future__ import annotations

import secrets

_PREFIX_LENGTH = 3  # 48 secret bits
_FIRST_PREFIX = 0xF0000
_FIRST = 0x100000  # the last plane of Unicode
_COUNT = 0xFFFE  # private-use characters of a plane


def make_prefix() -> str:
    """A new secret prefix."""
    codes = (_FIRST_PREFIX + secrets.randbelow(_COUNT) for _ in range(_PREFIX_LENGTH))
    return "".join(map(chr, codes))


def build_mark(prefix: str, index: int) -> str:
    """The mark with this index, from 0. Raises ValueError when there are no more."""
    if index >= _COUNT:
        raise ValueError("too many marks")
    return prefix + chr(_FIRST + index)
