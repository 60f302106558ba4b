"""A constraint that begins at a text of the answer, and what comes before the constrained part."""

from __future__ import annotations

from typing import Any

import pytest

from services.engine.core import Constraint, Trigger
from services.engine.runner.requests.grammar_tokenizers import build_tokenizer
from services.engine.runner.requests.lazy_constraint import LazyConstraint
from services.engine.runner.requests.structured_output import ConstraintCompiler, ConstraintState
from services.shared.errors import InvalidRequest
from services.shared.grammar_tokens import name_token, read_token_name

END, CALL, THINK, THINK_END, BRACKETS = range(256, 261)
SPECIAL = {CALL: b"<call>", THINK: b"<think>", THINK_END: b"</think>", BRACKETS: b"[CALL]"}
PIECES = [*(bytes([byte]) for byte in range(256)), b"</s>", *SPECIAL.values(), b"ol{"]
SCHEMA = '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}'
GRAMMAR = f'start: "<tool>" a "</tool>"\na: %json {SCHEMA[:-1]}, "additionalProperties": false}}\n'
VALID = '<tool>{"a": 1}</tool>'


def compile_(constraint: Constraint) -> ConstraintState:
    compiler = ConstraintCompiler(lambda: build_tokenizer(PIECES, ends=(END,), special=SPECIAL))
    return compiler.compile(constraint)


def build_lazy(source: str = GRAMMAR, **changes: Any) -> LazyConstraint:
    trigger = Trigger(**{"text": "<tool>", **changes})
    return LazyConstraint(compile_(Constraint("lark", source, trigger=trigger)), trigger)


def watch(lazy: LazyConstraint, text: str, size: int = 1) -> ConstraintState | None:
    """Watch the text in pieces of this size; the state that the last one began."""
    raw = text.encode()
    states = [lazy.watch(raw[at : at + size]) for at in range(0, len(raw), size)]
    assert not any(states[:-1])
    return states[-1]


def accept(state: ConstraintState, text: str) -> int:
    """How many bytes of the text fit."""
    for count, byte in enumerate(text.encode()):
        if not state.allows(byte):
            return count
        state.accept(byte)
    return len(text)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_constraint_begins_behind_its_trigger(size: int) -> None:
    text = "I call é <tool <tool>"
    state = watch(build_lazy(), text, size)

    assert state is not None
    assert accept(state, '{"b"') == 2


def test_what_came_with_the_trigger_is_consumed() -> None:
    lazy = build_lazy()

    state = lazy.watch(b'x<tool>{"a":')

    assert state is not None
    assert accept(state, " 1}</tool>") == len(" 1}</tool>")
    assert state.is_finished


def test_the_answer_stays_free_where_the_text_behind_the_trigger_does_not_fit() -> None:
    lazy = build_lazy()

    assert lazy.watch(b"<tool> is") is None
    assert lazy.watch(b" a tag. <tool>") is not None


def test_each_call_begins_anew() -> None:
    lazy = build_lazy()
    for _ in range(2):
        state = watch(lazy, "<tool>")
        assert state is not None
        assert accept(state, VALID.removeprefix("<tool>")) == len(VALID) - len("<tool>")
        assert state.is_finished


@pytest.mark.parametrize(
    ("text", "is_thinking", "begins"),
    [
        ("<t>a <tool>", False, False),
        ("\n <t>a <tool></t><tool>", False, True),
        ("a <t><tool>", False, True),
        ("a <tool>", True, False),
        ("a <tool></t>\n<tool>", True, True),
    ],
)
@pytest.mark.parametrize("size", [1, 3])
def test_a_trigger_in_thinking_does_not_count(
    text: str, is_thinking: bool, begins: bool, size: int
) -> None:
    lazy = build_lazy(thinking_start="<t>", thinking_end="</t>", is_thinking=is_thinking)

    assert (watch(lazy, text, size) is not None) == begins


@pytest.mark.parametrize(
    ("text", "begins"),
    [("<tool>", True), ("\n <tool>", True), ("<t>a</t>\n<tool>", True), ("a <tool>", False)],
)
def test_a_trigger_may_count_only_at_the_start(text: str, begins: bool) -> None:
    lazy = build_lazy(thinking_start="<t>", thinking_end="</t>", only_at_start=True)

    assert (watch(lazy, text) is not None) == begins
    assert watch(lazy, "<tool>") is None


def test_a_trigger_may_be_a_special_token() -> None:
    lazy = build_lazy('start: <%5BCALL%5D> "x" <call>', text="[CALL]")
    state = lazy.watch(SPECIAL[BRACKETS])

    assert state is not None
    assert [state.allows(token) for token in (ord("y"), BRACKETS, ord("x"))] == [0, 0, 1]
    state.accept(ord("x"))
    assert [state.allows(token) for token in (ord("<"), CALL)] == [0, 1]


def test_a_trigger_that_the_grammar_spells_is_found_though_it_is_a_special_token() -> None:
    state = build_lazy('start: "<call>" "x"', text="<call>").watch(SPECIAL[CALL])

    assert state is not None
    assert accept(state, "xx") == 1


def test_a_grammar_must_begin_with_its_trigger() -> None:
    with pytest.raises(InvalidRequest, match="trigger '<other>'"):
        build_lazy(text="<other>")


@pytest.mark.parametrize(
    ("kind", "source", "answer"),
    [
        ("json_schema", SCHEMA, '{"a": 1}'),
        ("regex", "[ab]{2}", "ab"),
        ("gbnf", 'root ::= "x" y\ny ::= "y"\n', "xy"),
        ("lark", 'start: "x" y\ny: /y/', "xy"),
    ],
)
def test_thinking_may_come_before_each_kind_of_constraint(
    kind: Any, source: str, answer: str
) -> None:
    before = "start: (<think> text </think> gap?)?\ntext: /(.|\\n)*/\ngap: /\\s{1,4}/\n"
    constraint = Constraint(kind, source, before)
    state = compile_(constraint)

    state.accept(THINK)
    accept(state, "Hm {[x")
    assert not state.allows(END)
    state.accept(THINK_END)
    assert accept(state, f"\n\n{answer}") == len(answer) + 2
    assert state.allows(END)
    assert accept(compile_(constraint), answer) == len(answer)
    assert accept(compile_(constraint), "Hm") == 0


@pytest.mark.parametrize(
    "text", ["<think>", "[CALL]", "<a b>", "<%41>", "<[1]>", "◁think▷", "</s>"]
)
def test_a_special_token_has_a_name_of_its_own(text: str) -> None:
    name = name_token(text)

    assert read_token_name(name) == text
    assert name[0] + name[-1] == "<>"
    assert not {" ", "["} & set(name)
