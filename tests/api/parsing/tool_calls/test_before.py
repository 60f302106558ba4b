"""What may come before a call or a structure: the grammar accepts it, and the parser reads it."""

from __future__ import annotations

import llguidance
import pytest

from services.api.parsing.parts import Reasoning
from services.api.parsing.reasoning import ReasoningParser, describe_thinking
from services.api.parsing.reasoning_marks import ReasoningMarks
from services.api.parsing.tool_calls.families.harmony import HARMONY

MARKS = ReasoningMarks("<think>", "</think>")
BYTES = llguidance.LLTokenizer("byte")
ANALYSIS = "<|channel|>analysis<|message|>Hm. {<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"


def accepts(grammar: str, text: str) -> bool:
    """Whether this text may come before; it may be the beginning of more."""
    assert llguidance.LLMatcher.validate_grammar(grammar, BYTES) == ""
    matcher = llguidance.LLMatcher(BYTES, grammar)
    raw = list(text.encode())
    return matcher.try_consume_tokens(raw) == len(raw) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("is_open", "text", "accepted"),
    [
        (False, "", True),
        (False, "<think>\nHm é.\n</think>\n\n", True),
        (False, "<think>Hm", False),
        (False, "Hm", False),
        (True, "Hm</think>", True),
        (True, "", False),
    ],
)
def test_thinking_is_whole_or_absent(is_open: bool, text: str, accepted: bool) -> None:
    assert accepts(describe_thinking(MARKS, (), is_open=is_open), text) == accepted
    if accepted and text:
        parser = ReasoningParser(MARKS, is_open=is_open)
        parts = [*parser.feed(text), *parser.finish()]
        assert {type(part) for part in parts} == {Reasoning}


SOLAR = ReasoningMarks("<|think|>", "<|end|>", between="<|begin|>assistant", header="<|content|>")


@pytest.mark.parametrize(
    ("is_call", "text", "accepted"),
    [
        (False, "", True),
        (False, "<|content|>", True),
        (False, "<|think|>Hm<|end|><|begin|>assistant<|content|>", True),
        (False, "<|think|>Hm<|end|>", False),
        (True, "<|think|>Hm<|end|><|begin|>assistant", True),
        (True, "<|content|>", False),
    ],
)
def test_an_answer_may_be_a_message_after_the_thinking(
    is_call: bool, text: str, accepted: bool
) -> None:
    grammar = describe_thinking(SOLAR, (), is_open=False, is_call=is_call)

    assert accepts(grammar, text) == accepted
    if accepted:
        parser = ReasoningParser(SOLAR, is_open=False)
        parts = [*parser.feed(text), *parser.finish()]
        assert parts == ([Reasoning("Hm")] if "Hm" in text else [])


@pytest.mark.parametrize(
    ("is_call", "text", "accepted"),
    [
        (True, "", True),
        (True, ANALYSIS, True),
        (True, FINAL, False),
        (False, FINAL, True),
        (False, ANALYSIS + FINAL, True),
        (False, ANALYSIS, False),
    ],
)
def test_harmony_thinks_in_a_message_of_its_own(is_call: bool, text: str, accepted: bool) -> None:
    assert accepts(HARMONY.describe_before(is_call=is_call), text) == accepted
    if accepted and not is_call:
        parser = HARMONY.open({})
        parts = [*parser.feed(f'{text}{{"a": 1}}'), *parser.finish()]
        thought = [part.text for part in parts if isinstance(part, Reasoning)]
        rest = "".join(p.text for p in parts if not isinstance(p, Reasoning))  # type: ignore[union-attr]
        assert (rest, thought) == ('{"a": 1}', ["Hm. {"] if ANALYSIS in text else [])
