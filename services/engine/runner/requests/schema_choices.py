"""What a JSON schema or a grammar lets the parser choose from: checked before it is compiled.

Optional properties and alternatives that are possible at one place of an answer are all followed at
each token there. The time for that grows with the square of their number, on the thread of the
loop: 3000 optional properties held up all answers for 0.1 to 0.6 s a token, and llguidance gave up
after it. Required properties come one after the other, and strings of an `enum` are read as one
expression: both are cheap, whatever their number. But each token walks what is left of a long text.

llguidance reads numbers as float64, so it would force another integer than a `const` of more than 53
bits.
"""

from __future__ import annotations

import json

from services.shared.errors import InvalidRequest
from services.shared.limits import MAX_CONSTRAINT_CHOICES, MAX_FORCED_CHARS

_SCHEMA = ": %json "
_OPTIONAL = ")?"
_MAX_EXACT = 1 << 53  # of the integers that float64 holds


def check_schema(schema: dict[str, object]) -> None:
    """Raise InvalidRequest if there are too many choices, or a text that cannot be forced."""
    count, nodes = 0, list[object]([schema])
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            _check_constants(node)
            count += _count_choices(node)
            nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)
    _check(count, "optional properties and alternatives")


def check_regex(source: str) -> None:
    """Raise InvalidRequest if the expression is too long."""
    _check_text(source, "regular expression")


def check_gbnf(source: str) -> None:
    """Raise InvalidRequest if the grammar has too many alternatives."""
    _check(source.count("|"), "alternatives")


def check_lark(source: str) -> None:
    """Raise InvalidRequest if a rule has too many optional parts, or a schema too many choices.

    Rules count one by one: calls of many tools are alternatives that differ in their first words.
    """
    decoder = json.JSONDecoder()
    for line in source.split("\n"):
        rule, found, rest = line.partition(_SCHEMA)
        _check(rule.count(_OPTIONAL), "optional parameters")
        schema = decoder.raw_decode(rest)[0] if found else None
        if isinstance(schema, dict):
            check_schema(schema)


def _check(count: int, what: str) -> None:
    if count > MAX_CONSTRAINT_CHOICES:
        raise InvalidRequest(f"too many {what}: {count}, of at most {MAX_CONSTRAINT_CHOICES}")


def _check_text(text: str, what: str) -> None:
    if len(text) > MAX_FORCED_CHARS:
        raise InvalidRequest(
            f"{what} is too long: {len(text)} characters, of at most {MAX_FORCED_CHARS}"
        )


def _check_constants(node: dict[str, object]) -> None:
    for name in node:
        _check_text(name, "the name of a property")
    for keyword in ("const", "enum", "pattern"):
        values = [node.get(keyword)]
        while values:
            value = values.pop()
            if isinstance(value, str):
                _check_text(value, keyword)
            if isinstance(value, int) and abs(value) > _MAX_EXACT:
                raise InvalidRequest(f"{keyword} has an integer of more than 53 bits: {value}")
            if isinstance(value, list | dict):
                values.extend(value if isinstance(value, list) else (*value, *value.values()))


def _count_choices(node: dict[str, object]) -> int:
    count = 0
    properties, required = node.get("properties"), node.get("required")
    if isinstance(properties, dict):
        names = required if isinstance(required, list) else []
        count += len(properties.keys() - {name for name in names if isinstance(name, str)})
    patterns = node.get("patternProperties")
    if isinstance(patterns, dict):
        count += len(patterns)
    for name in ("anyOf", "oneOf"):
        alternatives = node.get(name)
        if isinstance(alternatives, list):
            count += len(alternatives)
    values = node.get("enum")
    if isinstance(values, list):
        count += sum(not isinstance(value, str) for value in values)
    return count
