"""The verbs of Go's fmt.Sprintf that templates use: %v %s %q %d %x %X %f %e %g %t %c %U %T %%."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from services.shared.templates.go_template.limits import Budget
from services.shared.templates.go_template.values import to_text, type_name

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\*|\d*)(?:\.(?P<precision>\*|\d*))?(?P<verb>.?)", re.DOTALL
)
_MAX_WIDTH = 1_000_000  # fmt's own limit
_MAX_DIGITS = 400  # no float has more


def sprintf(form: str, arguments: Sequence[Any], budget: Budget) -> str:
    """The text that fmt.Sprintf makes, its notes about wrong arguments included."""
    return budget.join(_format_parts(form, arguments, budget))


def sprint(arguments: Sequence[Any]) -> Iterator[str]:
    """The parts of fmt.Sprint: a space between two values when neither is a string."""
    before: Any = ""
    for value in arguments:
        if not isinstance(value, str) and not isinstance(before, str):
            yield " "
        yield to_text(value)
        before = value


def _format_parts(form: str, arguments: Sequence[Any], budget: Budget) -> Iterator[str]:
    rest = iter(arguments)
    end = 0
    for match in _VERB.finditer(form):
        yield form[end : match.start()]
        end = match.end()
        budget.step()
        yield _format(match, rest, budget)
    yield form[end:]
    extra = [f"{type_name(value)}={to_text(value)}" for value in rest]
    if extra:
        yield f"%!(EXTRA {', '.join(extra)})"


def _format(match: re.Match[str], rest: Iterator[Any], budget: Budget) -> str:
    verb, flags = match["verb"], match["flags"]
    if not verb:
        return "%!(NOVERB)"
    if verb == "%":
        return "%"
    width = _read_size(match["width"], rest)
    precision = _read_size(match["precision"], rest)
    if width is not None and abs(width) > _MAX_WIDTH:
        return "%!(BADWIDTH)"
    if precision is not None and not 0 <= precision <= _MAX_WIDTH:
        return "%!(BADPREC)"
    budget.make(abs(width or 0) + (precision or 0))
    try:
        value = next(rest)
    except StopIteration:
        return f"%!{verb}(MISSING)"
    text = _convert(verb, flags, precision, value)
    if text is None:
        return f"%!{verb}({type_name(value)}={to_text(value)})"
    if width is None:
        return text
    if "-" in flags or width < 0:
        return text.ljust(abs(width))
    if "0" not in flags:
        return text.rjust(width)
    return text.zfill(width) if verb in "dfeEgGxX" else text.rjust(width, "0")


def _read_size(text: str | None, rest: Iterator[Any]) -> int | None:
    if text == "*":
        value = next(rest, None)
        return value if isinstance(value, int) else None
    return int(text[:9]) if text else None


def _convert(verb: str, flags: str, precision: int | None, value: Any) -> str | None:
    """The value without padding; None when the verb does not fit it."""
    match verb:
        case "v":
            return to_text(value)
        case "T":
            return type_name(value)
        case "t" if isinstance(value, bool):
            return to_text(value)
        case "s" if not isinstance(value, bool | int | float):
            text = "%!s(<nil>)" if value is None else to_text(value)
            return text if precision is None else text[:precision]
        case "q" if isinstance(value, str):
            return _quote(value)
        case "x" | "X" if isinstance(value, str):
            digits = value.encode("utf-8", "replace").hex()
            return digits if verb == "x" else digits.upper()
    sign = "+" if "+" in flags else " " if " " in flags else ""
    if isinstance(value, int) and not isinstance(value, bool):
        return _convert_integer(verb, f"{sign}#" if "#" in flags else sign, value)
    return _convert_float(verb, sign, precision, value) if isinstance(value, float) else None


def _convert_integer(verb: str, flags: str, value: int) -> str | None:
    if verb == "d":
        return f"{value:{flags.replace('#', '')}d}"
    if verb in "xXob":
        return f"{value:{flags}{verb}}"
    if verb not in "cqU" or not 0 <= value <= sys.maxunicode:
        return None
    return {"c": chr(value), "q": f"'{chr(value)}'", "U": f"U+{value:04X}"}[verb]


def _convert_float(verb: str, sign: str, precision: int | None, value: float) -> str | None:
    if verb in "feEF":
        return f"{value:{sign}.{6 if precision is None else min(precision, _MAX_DIGITS)}{verb}}"
    if verb not in "gG":
        return None
    return to_text(value) if precision is None else f"{value:{sign}.{min(precision, _MAX_DIGITS)}g}"


def _quote(text: str) -> str:
    # Go's escapes differ from those of JSON for control characters only.
    quoted = json.dumps(text, ensure_ascii=False)
    named = {"\\u0007": "\\a", "\\u000b": "\\v"}
    return re.sub(
        r"\\\\|\\u00([01][0-9a-f])",
        lambda m: m[0] if m[0] == "\\\\" else named.get(m[0], f"\\x{m[1]}"),
        quoted,
    )
