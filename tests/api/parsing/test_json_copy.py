from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.parsing.json_copy import copy_json, parse_json, run_to_end
from services.api.parsing.text_source import TextSource

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"a": [1, {"b": null}], "c": ""}', "object"),
        (" [ ]", "array"),
        ('"\\u00e9\\n"', "string"),
        ("-0.5e+10", "number"),
        ("123456789012345678901234567890", "integer"),
        ("true", "boolean"),
        ("null", "null"),
        ("", ""),
        ("007", ""),
        ("1.", ""),
        ("NaN", ""),
        ("True", ""),
        ("{'a': 1}", ""),
        ('{"a" 1}', ""),
        ('{"a": 1,}', ""),
        ("[1 2]", ""),
        ("[1}", ""),
        ('"\\x"', ""),
        ('"\\u12g4"', ""),
        ('"open', ""),
        ("1 2", ""),
        ("1" * 5000, ""),
    ],
)
def test_the_kind_of_a_text(text: str, kind: str) -> None:
    assert parse_json(text)[0] == kind


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_what_json_writes_is_copied_as_it_is(value: object, ascii_: bool, indent: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_, indent=indent)

    kind, copied = copy(text)

    assert (bool(kind), copied) == (True, text)


@given(st.text(alphabet='{}[]",:\\u0123eE+-. \ntrfalsn', max_size=40))
def test_it_accepts_what_json_accepts(text: str) -> None:
    try:
        json.loads(text, strict=False)
    except ValueError:
        is_json = False
    else:
        is_json = True

    assert bool(parse_json(text.rstrip(" \n"))[0]) == is_json


def test_control_characters_in_strings_become_escapes() -> None:
    assert copy('{"a": "x\ny\tz\x01"}') == ("object", '{"a": "x\\ny\\tz\\u0001"}')


def test_what_was_valid_is_copied_when_the_rest_is_not() -> None:
    assert copy('{"a": 1, "b": nope}') == ("", '{"a": 1, "b": ')


def copy(text: str) -> tuple[str, str]:
    source = TextSource()
    source.push(text)
    source.end()
    texts: list[str] = []
    kind = run_to_end(copy_json(source, texts.append))
    return kind, "".join(texts)
