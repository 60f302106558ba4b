"""Limits on a render: its time, and the size of the values that the template builds.

A check runs before a value is computed where the arguments determine its size, and after it
otherwise. So no value grows beyond a small multiple of the limits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError

MAX_TEXT = 16 << 20  # characters of one value, and of the prompt
MAX_TOTAL_TEXT = 192 << 20  # characters of all long values of one render together
MAX_ITEMS = 1 << 20  # items of one list that a template builds
_MAX_PADDING = 4096
_MAX_INTEGER_BITS = 1024
_TICKS_PER_CLOCK_READ = 256
_LONG_TEXT = 4096  # the number of shorter values is bounded by the ticks

_PADDERS = {"center", "ljust", "rjust", "zfill", "expandtabs"}
_LONG_WIDTH = re.compile(r"[0-9]{4,}|\*")


class TooExpensive(TemplateRuntimeError):
    """The template exceeded its time, or a limit on the values it builds."""


class Meter:
    """Counts the time and the long values of one render."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._ticks = 0
        self._text = 0

    def tick(self) -> None:
        """Count an iteration of a loop; reads the clock once in many calls."""
        self._ticks += 1
        if self._ticks % _TICKS_PER_CLOCK_READ == 0 and time.monotonic() > self._deadline:
            raise TooExpensive("the chat template takes too long")

    def charge(self, characters: int) -> None:
        """Count the characters of a value that was built, whether or not the template keeps it."""
        self._text += characters
        if self._text > MAX_TOTAL_TEXT:
            raise TooExpensive("the chat template builds too many long texts")


METER: ContextVar[Meter] = ContextVar("template_meter")


def bounded(value: Any) -> Any:
    """The value, unchanged. Raises TooExpensive when it is beyond the limits."""
    if isinstance(value, str):
        _check_text_length(len(value))
        if len(value) > _LONG_TEXT and (meter := METER.get(None)) is not None:
            meter.charge(len(value))
    elif isinstance(value, (list, tuple, dict)) and len(value) > MAX_ITEMS:
        raise TooExpensive("the chat template builds too long a list")
    return value


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse a product, power or `%` format whose result would be too large."""
    if operator == "*":
        _check_product(left, right)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * abs(right))
    elif operator == "%" and isinstance(left, str):
        check_widths(left)


def check_text_method(text: str, name: str, args: Sequence[Any]) -> None:
    """Refuse a call of a string's method whose result would be too long."""
    if name in _PADDERS:
        check_padding(args)
    if name == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
        # Each match may grow by the new text; an empty text matches between all characters.
        _check_text_length(len(text) + text.count(args[0]) * len(args[1]))
    if name == "join" and args and isinstance(args[0], (list, tuple)):
        check_join(text, args[0])


def check_join(separator: str, items: Sequence[object]) -> None:
    """Refuse to join texts when the result would be too long."""
    length = sum(len(i) for i in items if isinstance(i, str))
    _check_text_length(length + len(separator) * len(items))


def check_indent(text: str, values: Iterable[Any]) -> None:
    """Refuse to pad every line of a long text."""
    widths = [v for v in values if isinstance(v, int)]
    _check_text_length(len(text) + text.count("\n") * max([1, *widths]))


def check_padding(args: Iterable[Any]) -> None:
    """Refuse widths that are larger than any prompt needs."""
    if any(isinstance(a, int) and a > _MAX_PADDING for a in args):
        raise TooExpensive("the chat template pads a text too far")


def check_widths(form: str) -> None:
    """Refuse such widths inside a format string."""
    if _LONG_WIDTH.search(form):
        raise TooExpensive("the chat template pads a text too far")


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, (str, list, tuple)):
            limit = MAX_TEXT if isinstance(value, str) else MAX_ITEMS
            if len(value) * times > limit:
                raise TooExpensive("the chat template repeats a value too often")
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _check_bits(bits: int) -> None:
    if bits > _MAX_INTEGER_BITS:
        raise TooExpensive("the chat template computes too large a number")


def _check_text_length(length: int) -> None:
    if length > MAX_TEXT:
        raise TooExpensive("the chat template builds too long a text")
