"""Bounds the memory that request bodies take while they are read, parsed and answered.

A small body can become large: a JSON array of empty arrays takes fifty times its length. So a body
counts with what it may take once parsed, not with its length. One body may take MAX_PARSED_BYTES,
and all bodies of a worker together MAX_BYTES_PER_WORKER: beyond that, a request is refused with 503
and Retry-After before it is read any further. All bodies of one principal together take at most
twice what they leave to others: one that sends many bodies, or very slowly, has only its own
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from services.api.shared_budget import SharedBudget
from services.shared.errors import InvalidRequest, Unavailable

MAX_PARSED_BYTES = 64 << 20
MAX_BYTES_PER_WORKER = 96 << 20
MAX_TEXTS_BYTES = 32 << 20  # of the JSON in the texts of one request, once parsed
_SHARE = 2  # so that the largest body passes while there is no other

_VALUE_BYTES = 104  # measured: an empty array, as the parser's value and as a Python list
_ROUGH_VALUES = 50_000
# A string as a whole, so that the commas in it do not count. Possessive: it needs no memory.
_STRING_OR_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[,:\[{]', re.DOTALL)
# A member of an object is a colon more than an item of an array, and a key and its slot.
_WEIGHTS = {b",": 1, b"[": 1, b"{": 1, b":": 2}


class ParseBudget:
    """What one worker has for the bodies of its requests. Event loop only."""

    def __init__(self, max_bytes: int = MAX_BYTES_PER_WORKER) -> None:
        self._bytes = SharedBudget(max_bytes, share=_SHARE)

    @contextmanager
    def lease(self, principal: str) -> Iterator[ParseLease]:
        """A lease for one body of a principal, given back at the end of the block."""
        lease = ParseLease(self._bytes, principal)
        try:
            yield lease
        finally:
            lease.resize(0)


class ParseLease:
    """The share of one body."""

    def __init__(self, budget: SharedBudget, principal: str) -> None:
        self._budget = budget
        self._principal = principal
        self._size_bytes = 0

    def resize(self, size_bytes: int) -> None:
        """Make it this large; Unavailable when too little is left."""
        more = size_bytes - self._size_bytes
        if more <= 0:
            self._budget.give_back(self._principal, -more)
        elif not self._budget.take(self._principal, more):
            raise Unavailable("too many large requests at a time; try again shortly")
        self._size_bytes = size_bytes


def check_texts(texts: Iterable[str], param: str) -> None:
    """InvalidRequest for texts that are JSON themselves, and would take too much once parsed."""
    size = sum(estimate_parsed_bytes(text.encode("utf-8", "replace")) for text in texts)
    if size > MAX_TEXTS_BYTES:
        raise InvalidRequest(
            f"the JSON in {param} has too much text, or too many values", param=param
        )


def estimate_parsed_bytes(raw: bytes | bytearray) -> int:
    """At most what a JSON body takes together with what it is parsed into."""
    # One character beyond Latin-1 makes Python store all of a text in up to four bytes each.
    factor = 2 if raw.isascii() and b"\\u" not in raw else 5
    return factor * len(raw) + _VALUE_BYTES * _count_values(raw)


def _count_values(raw: bytes | bytearray) -> int:
    """About the number of values and keys; exact only where that can matter."""
    rough = sum(weight * raw.count(mark) for mark, weight in _WEIGHTS.items())
    if rough <= _ROUGH_VALUES:
        return rough
    count = 0
    for match in _STRING_OR_MARK.finditer(raw):
        count += _WEIGHTS.get(match[0], 0)
        if count * _VALUE_BYTES > MAX_PARSED_BYTES:
            break
    return count
