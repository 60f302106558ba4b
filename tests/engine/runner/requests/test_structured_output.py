"""The position of an answer in its grammar, and constraints that are refused."""

from __future__ import annotations

import ctypes
import json
import threading
from typing import Any

import numpy as np
import psutil
import pytest

from services.engine.core import Constraint, Sampling
from services.engine.runner.requests.grammar_library import GrammarTokenizer
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.structured_output import ConstraintCompiler, ConstraintState
from services.engine.runner.sampling.sampler import Sampler
from services.shared.errors import InternalError, InvalidRequest


def build_compiler() -> ConstraintCompiler:
    """One token per byte, then two end tokens."""
    pieces = [bytes([byte]) for byte in range(256)]
    return ConstraintCompiler(
        lambda: build_tokenizer([*pieces, b"</s>", b"<|end|>"], ends=(256, 257))
    )


def write(state: ConstraintState, text: str) -> None:
    for byte in text.encode():
        assert state.allows(byte)
        state.accept(byte)


def test_a_complete_answer_may_end_or_continue() -> None:
    state = build_compiler().compile(Constraint("regex", "ab*c?"))
    assert not state.allows(256)

    write(state, "ab")

    assert [state.allows(token) for token in (256, 257, ord("b"), ord("a"))] == [1, 1, 1, 0]
    assert not state.is_finished


def test_a_finished_answer_can_only_end() -> None:
    state = build_compiler().compile(Constraint("regex", "ab*c?"))
    write(state, "abc")

    assert state.is_finished
    assert not state.allows(ord("c"))
    assert np.flatnonzero(state.mask()).tolist() == [256, 257]
    state.accept(257)


def test_a_grammar_that_permits_only_the_end_overrides_a_ban_on_the_end() -> None:
    state = build_compiler().compile(Constraint("regex", "a"))
    write(state, "a")
    sampler = Sampler(Sampling(), seed=0, vocab_size=258, prompt=())

    token = sampler.pick(np.zeros(258, np.float32), constraint=state, banned=(256, 257))

    assert token in (256, 257)


def test_the_mask_permits_only_the_usual_tokens_of_forced_text() -> None:
    pieces = [*(bytes([byte]) for byte in range(256)), b"\xff</s>", b"abc", b"ab"]
    usual = {b"abcd": [257, ord("d")], b"test": [0]}
    constraints = ConstraintCompiler(
        lambda: GrammarTokenizer(pieces, ends=(256,), tokenize=usual.__getitem__)
    )

    state = constraints.compile(Constraint("regex", "abcd"))

    assert np.flatnonzero(state.mask()).tolist() == [257]
    assert state.allows(ord("a"))


@pytest.mark.parametrize("source", ["true", "{}"])
def test_an_empty_schema_permits_any_json(source: str) -> None:
    for text in ['{"a":[1,null]}', '"x"', "-1.5e3 "]:
        write(build_compiler().compile(Constraint("json_schema", source)), text.strip())


def test_each_answer_has_its_own_position_in_a_shared_grammar() -> None:
    constraints = build_compiler()
    first = constraints.compile(Constraint("regex", "abc"))
    write(first, "ab")

    second = constraints.compile(Constraint("regex", "abc"))

    assert second.allows(ord("a"))
    assert first.allows(ord("c"))


def test_the_tokenizer_is_built_once_and_only_when_needed() -> None:
    built = []

    def build() -> Any:
        built.append(1)
        return build_tokenizer([b"a", b"b", b"</s>"], ends=(2,))

    constraints = ConstraintCompiler(build)
    assert built == []
    threads = [
        threading.Thread(target=constraints.compile, args=(Constraint("regex", "a" * n),))
        for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert built == [1]


def test_json_may_be_indented_but_not_endlessly() -> None:
    state = build_compiler().compile(
        Constraint("json_schema", '{"type":"array","items":{"const":1}}')
    )
    write(state, "[\n" + " " * 20)

    assert not state.allows(ord(" "))
    write(state, "1, 1]")
    assert state.is_finished


def test_accepting_a_token_that_is_not_permitted_raises() -> None:
    state = build_compiler().compile(Constraint("regex", "abc"))

    with pytest.raises((InternalError, InvalidRequest)):
        state.accept(ord("z"))


@pytest.mark.parametrize(
    ("kind", "source", "problem"),
    [
        ("json_schema", "{", "invalid json schema: "),
        ("json_schema", "[1]", "invalid json schema: a schema is an object"),
        ("json_schema", '{"type": "thing"}', "Invalid type: thing"),
        ("json_schema", '{"not": {}}', 'Unimplemented keys: \\["not"\\]'),
        ("json_schema", '{"$ref": "#/nowhere"}', "nowhere"),
        ("json_schema", '{"type": "string", "pattern": "("}', "unclosed group"),
        ("json_schema", '{}}], "x": [{', "invalid json schema: Extra data"),
        ("json_schema", '{"items":' * 5000 + "{}" + "}" * 5000, "invalid json schema: "),
        ("regex", "(", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("lark", "start: nothing", 'unknown name: "nothing"'),
        ("lark", "", "invalid lark: "),
        ("gbnf", 'root ::= "a', "Unexpected end of input"),
        ("gbnf", "root ::= nothing", "Rule 'nothing' not found"),
        ("gbnf", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "invalid gbnf: "),
        ("gbnf", "x" * (64 << 10) + "y", "at most 65536 characters"),
        ("lark", "x" * (1 << 20) + "y", "at most 1048576 characters"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_an_invalid_constraint_is_refused_with_a_reason(
    kind: Any, source: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        build_compiler().compile(Constraint(kind, source))

    assert len(caught.value.message) < 600
    assert caught.value.param == kind


def test_a_model_without_an_end_token_cannot_be_constrained() -> None:
    constraints = ConstraintCompiler(lambda: build_tokenizer([b"a", b"b"], ends=()))

    with pytest.raises(InvalidRequest, match="no end token"):
        constraints.compile(Constraint("regex", "a"))


def test_a_few_rules_that_double_each_other_are_refused_like_a_large_grammar() -> None:
    """Compiled, these 400 characters took 1.6 s and 175 MB."""
    rules = [f"r{i} ::= r{i + 1} r{i + 1}" for i in range(25)]
    source = "\n".join(["root ::= r0", *rules, 'r25 ::= "a"'])

    with pytest.raises(InvalidRequest, match="too big"):
        build_compiler().compile(Constraint("gbnf", source))


def test_the_memory_of_kept_constraints_is_limited() -> None:
    """Eighty different schemas of 11 KB each: kept in full they would take 100 MB."""
    compiler = build_compiler()
    before = psutil.Process().memory_info().rss
    for number in range(80):
        properties = {f"p{number}_{i}": {"type": "number"} for i in range(400)}
        source = json.dumps({"type": "object", "properties": properties})
        compiler.compile(Constraint("json_schema", source))
    ctypes.CDLL(None).malloc_trim(0)  # as the runner does: what was freed counts no more

    assert psutil.Process().memory_info().rss - before < 64 << 20
