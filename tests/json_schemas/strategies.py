"""Hypothesis strategies for JSON schemas of all kinds, each with values that a model can finish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Schema = dict[str, Any]
T = TypeVar("T")

NAMES = [
    *(
        "a",
        "b",
        "name",
        "größe",
        "名前",
        "🙂",
        "two words",
        'a "quote"',
        "back\\slash",
        "line\nend",
    ),
    *("", "$ref", "type", "properties", "a/b~c", "</tag>", "0"),
]
PATTERNS = [
    *(r"^[a-f]{2}-\d{1,3}$", r"^(red|green|blue)$", r"^[A-Z][a-z]{0,7}$", r"^\d{4}$", r"^ü{1,3}$"),
    r'^"?\\?/?$',
]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6"]
VALUES: list[Any] = [
    *("red", "", 'say "no"', "ü\n\t", "日本", "🙂", "\\", "</s>", "\x01"),
    *(None, True, False, 0, -1, 9007199254740992, 1.5, -0.25, 1e20),
    *([], {}, [1, "a"], {"a": None}, {"b": [True], "ü": "x"}),
]
NODE: Schema = {
    "type": "object",
    "properties": {
        "value": {"type": "integer", "minimum": 0, "maximum": 9},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
    },
    "required": ["value", "next"],
    "additionalProperties": False,
}


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    kind = draw(st.sampled_from(["length", "length", "pattern", "format"]))
    if kind == "pattern":
        return {"type": "string", "pattern": draw(st.sampled_from(PATTERNS))}
    if kind == "format":
        return {"type": "string", "format": draw(st.sampled_from(FORMATS))}
    shortest = draw(st.integers(0, 4))
    schema: Schema = {"type": "string", "maxLength": shortest + draw(st.integers(0, 8))}
    return schema if not shortest else {**schema, "minLength": shortest}


@st.composite
def integers(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-2000, 2000))
    high = low + draw(st.integers(2, 3000))
    lows = {"minimum": low, "exclusiveMinimum": low}
    highs = {"maximum": high, "exclusiveMaximum": high}
    schema: Schema = {"type": "integer"}
    for bounds in (lows, highs):
        name = draw(st.sampled_from(sorted(bounds)))
        schema[name] = bounds[name]
    if draw(st.booleans()) and high - low > 20:
        schema["multipleOf"] = draw(st.sampled_from([2, 5, 10]))
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    low = draw(st.sampled_from([-3.5, -1, 0, 0.25, 99]))
    return {
        "type": "number",
        "minimum": low,
        "maximum": low + draw(st.sampled_from([0.5, 1, 7.25, 1000])),
    }


@st.composite
def choices(draw: st.DrawFn) -> Schema:
    if draw(st.booleans()):
        return {"const": draw(st.sampled_from(VALUES))}
    picked = draw(
        st.lists(st.sampled_from(range(len(VALUES))), min_size=1, max_size=5, unique=True)
    )
    return {"enum": [VALUES[place] for place in picked]}


@st.composite
def unions(draw: st.DrawFn) -> Schema:
    kinds = st.sampled_from(["integer", "null", "boolean"])
    types = draw(st.lists(kinds, min_size=1, max_size=3, unique=True))
    schema: Schema = {"type": [*types, "string"], "maxLength": 6}
    return {**schema, "minimum": 0, "maximum": 99} if "integer" in types else schema


def leaves() -> st.SearchStrategy[Schema]:
    plain = st.sampled_from([{"type": "boolean"}, {"type": "null"}])
    return st.one_of(strings(), integers(), numbers(), choices(), unions(), plain)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    low = draw(st.integers(0, 2))
    schema: Schema = {
        "type": "array",
        "items": draw(inner),
        "minItems": low,
        "maxItems": low + draw(st.integers(0, 2)),
    }
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    return schema


@st.composite
def objects(
    draw: st.DrawFn, inner: st.SearchStrategy[Schema], among: Sequence[str] = NAMES
) -> Schema:
    names = draw(st.lists(st.sampled_from(among), max_size=4, unique=True))
    properties = {name: draw(inner) for name in names}
    required = [name for name in names if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@st.composite
def combined(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    """Alternatives; objects that a constant tells apart; two objects at once."""
    kind = draw(st.sampled_from(["anyOf", "oneOf", "allOf"]))
    if kind == "anyOf":
        return {"anyOf": draw(st.lists(inner, min_size=1, max_size=3))}
    if kind == "oneOf":
        return {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": name}, "value": draw(inner)},
                    "required": ["kind", "value"],
                    "additionalProperties": False,
                }
                for name in ("first", "second")
            ]
        }
    halves = [
        {"type": "object", "properties": {name: draw(inner)}, "required": [name]}
        for name in ("left", "right")
    ]
    return {"allOf": halves}


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A schema, with definitions that it may refer to."""
    refs = st.sampled_from([{"$ref": f"#/$defs/{name}"} for name in ("leaf", "pair", "node")])
    inner = st.recursive(
        st.one_of(leaves(), leaves(), refs),
        lambda children: st.one_of(arrays(children), objects(children), combined(children)),
        max_leaves=6,
    )
    root = draw(st.one_of(objects(inner), inner))
    pair = draw(objects(leaves()))
    return {**root, "$defs": {"leaf": draw(leaves()), "pair": pair, "node": NODE}}


@st.composite
def parameters(draw: st.DrawFn) -> Schema:
    """A schema of the arguments of a function."""
    inner = st.recursive(
        leaves(), lambda children: st.one_of(arrays(children), objects(children)), max_leaves=2
    )
    return draw(objects(inner))


def draw_many(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """So many values, the same in each run, for tests that share the cost of drawing them."""
    found: list[T] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(value=strategy)
    def collect(value: T) -> None:
        found.append(value)

    collect()
    return found
