"""Thinking is told apart from the answer, wherever the text is cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.parsing.holdback import MAX_HELD_SPACES
from services.api.parsing.parts import Content, Part, Reasoning
from services.api.parsing.reasoning import ReasoningParser
from services.api.parsing.reasoning_marks import ReasoningMarks, find_marks
from tests.api.prompts.template_cases import COLLECTION

THINK = ReasoningMarks("<think>", "</think>")
GEMMA = ReasoningMarks("<|channel>thought\n", "<channel|>")


def parse(deltas: Iterable[str], marks: ReasoningMarks = THINK, *, is_open: bool = False) -> str:
    """The parts as text: thinking in braces, and what follows it."""
    parser = ReasoningParser(marks, is_open=is_open)
    parts = [part for delta in deltas for part in parser.feed(delta)]
    parts += parser.finish()
    thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
    answer = "".join(part.text for part in parts if isinstance(part, Content))
    assert [type(part) for part in parts] == sorted(
        (type(part) for part in parts), key=[Reasoning, Content].index
    )
    return ("{" + thought + "}" if thought else "") + answer


CASES = {
    "thinking, then an answer": ("<think>\nHm. 2 + 2.\n</think>\n\n4.", "{Hm. 2 + 2.}4."),
    "no blank space": ("<think>a</think>b", "{a}b"),
    "blank space before the mark": ("\n <think>a</think>b", "{a}b"),
    "empty thinking": ("<think>\n\n</think>\n\nParis.", "Paris."),
    "nothing after it": ("<think>a</think>\n", "{a}"),
    "never closed": ("<think>a\n\nb", "{a\n\nb}"),
    "half of the end": ("<think>a </thin", "{a </thin}"),
    "half of the start": (" <thi", " <thi"),
    "no thinking": ("  Paris.\n", "  Paris.\n"),
    "a mark in the answer": ("The tag <think>x</think>.", "The tag <think>x</think>."),
    "thinking twice": ("<think>a</think>b<think>c</think>d", "{a}b<think>c</think>d"),
    "a mark inside the thinking": ("<think>a<think>b</think>c", "{a<think>b}c"),
    "an end alone": ("a</think>b", "a</think>b"),
    "blank lines in the thinking": ("<think>a\n\n\nb \n</think>c", "{a\n\n\nb}c"),
    "what looks like the end": ("<think>a </ b </thin c</think>d", "{a </ b </thin c}d"),
    "much space before the start": (" " * 65 + "<think>a</think>b", " " * 65 + "<think>a</think>b"),
    "much space before the end": ("<think>a" + " " * 70 + "</think>b", "{a" + " " * 6 + "}b"),
    "much space in empty thinking": ("<think>" + " " * 70 + "</think>b", "b"),
    "umlauts": ("<think>é ü</think>ß", "{é ü}ß"),
    "nothing": ("", ""),
}
OPEN_CASES = {
    "the prompt opens it": ("Hm.\n</think>\n\n4.", "{Hm.}4."),
    "the model repeats the mark": ("<think>\nHm.</think>4.", "{Hm.}4."),
    "closed at once": ("</think>4.", "4."),
    "closed after a blank line": ("\n</think>\n4.", "4."),
    "never closed": ("Hm. 2 + 2", "{Hm. 2 + 2}"),
    "half of the start": ("<thi", "{<thi}"),
    "only blank space": ("\n \n", ""),
    "much space": (" " * 99 + "a", "{a}"),
    "much space before the mark": (" " * 99 + "<think>a</think>b", "{a}b"),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_an_answer_is_parsed_whole_and_letter_by_letter(text: str, expected: str) -> None:
    assert parse([text]) == expected
    assert parse(text) == expected


@pytest.mark.parametrize(("text", "expected"), OPEN_CASES.values(), ids=OPEN_CASES)
def test_an_answer_to_a_prompt_that_opens_the_thinking(text: str, expected: str) -> None:
    assert parse([text], is_open=True) == expected
    assert parse(text, is_open=True) == expected


def test_a_mark_with_a_line_end_is_found() -> None:
    assert parse("<|channel>thought\nHm.<channel|>4.", GEMMA) == "{Hm.}4."
    assert parse("<|channel>final\n4.", GEMMA) == "<|channel>final\n4."


MESSAGES = ReasoningMarks("<|t|>", "<|end|>", between="<|begin|>a", header=" to=b<|m|>")
MESSAGE_CASES = {
    "thinking, then an answer": ("<|t|>Hm<|end|><|begin|>a to=b<|m|> 4.", "{Hm} 4."),
    "an answer alone": (" to=b<|m|> 4.", " 4."),
    "no header": ("<|t|>Hm<|end|><|begin|>a4.", "{Hm}4."),
    "no beginning of another message": ("<|t|>Hm<|end|>\n4.", "{Hm}4."),
    "another recipient": ("<|t|>Hm<|end|><|begin|>a to=c<|m|>4.", "{Hm}to=c<|m|>4."),
    "half of the header": ("<|t|>Hm<|end|><|begin|>a to=", "{Hm}"),
    "half of the header, without thinking": (" to=", " to="),
    "a header in the text": ("<|t|>Hm<|end|>a to=b<|m|>", "{Hm}a to=b<|m|>"),
    "the header twice": (" to=b<|m|> to=b<|m|>", " to=b<|m|>"),
}


@pytest.mark.parametrize(("text", "expected"), MESSAGE_CASES.values(), ids=MESSAGE_CASES)
def test_thinking_and_answer_in_messages_of_their_own(text: str, expected: str) -> None:
    splits = [[text], list(text), *([text[:n], text[n:]] for n in range(len(text)))]

    assert {parse(split, MESSAGES) for split in splits} == {expected}


def cut(text: str, places: Sequence[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "é"]),
        max_size=12,
    ).map("".join),
    st.lists(st.integers(0, 200), max_size=8),
    st.booleans(),
)
def test_any_split_gives_the_same(text: str, places: list[int], is_open: bool) -> None:
    assert parse(cut(text, places), is_open=is_open) == parse([text], is_open=is_open)


@given(st.text(alphabet="<thinkx/> \n", max_size=30).filter(lambda text: "<think>" not in text))
def test_an_answer_without_thinking_is_kept_byte_for_byte(text: str) -> None:
    assert parse(text) == text


def test_text_after_the_thinking_is_one_part_for_each_delta() -> None:
    parser = ReasoningParser(THINK, is_open=False)
    parser.feed("<think>a</think>b")

    assert parser.feed(" <think>\n") == [Content(" <think>\n")]
    assert parser.feed("") == []


def test_thinking_is_not_held_back_longer_than_needed() -> None:
    parser = ReasoningParser(THINK, is_open=False)
    found: list[list[Part]] = [parser.feed(delta) for delta in ("<think>\n", "Hm", ", </", "b>")]

    assert found == [[], [Reasoning("Hm")], [Reasoning(",")], [Reasoning(" </b>")]]


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{{ '<think>\\n' }}", "<think>"),
        ("{% set c = content.split('</think>')[-1] %}", "<think>"),
        ("{{ '[THINK]' + block['thinking'] + '[/THINK]' }}", "[THINK]"),
        ("{{- '<|channel>thought\\n<channel|>' -}}", "<|channel>thought\n"),
        ("{{ message.content }}", None),
        ("{% if enable_thinking %}{{ 'Think aloud.' }}{% endif %}", None),
    ],
)
def test_the_marks_are_those_that_the_template_writes(template: str, start: str | None) -> None:
    marks = find_marks(template)

    assert (None if marks is None else marks.start) == start


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_the_end_of_the_prompt_shows_whether_it_opens_the_thinking(
    prompt: str, is_open: bool
) -> None:
    assert THINK.is_opened_by(prompt) is is_open


MARKS_OF_REAL_TEMPLATES = {
    "Qwen-Qwen3-0.6B": "<think>",
    "Qwen-Qwen2.5-7B-Instruct": None,
    "ByteDance-Seed-OSS": "<seed:think>",
    "MiniMax-M3": "<mm:think>",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|START_THINKING|>",
    "mistralai-Ministral-3-14B-Reasoning-2512": "[THINK]",
    "google-gemma-4-31B-it": "<|channel>thought\n",
    "Apertus-8B-Instruct": "<|inner_prefix|>",
    "Apriel-1.6-15b-Thinker-fixed": "Here are my reasoning steps:\n",
    "unsloth-Apriel-1.5": "Here are my reasoning steps:\n",
    "deepseek-ai-DeepSeek-V3.1": "<think>",
    "meta-llama-Llama-3.1-8B-Instruct": None,
}


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
@pytest.mark.parametrize(("name", "start"), MARKS_OF_REAL_TEMPLATES.items())
def test_the_marks_of_real_templates(name: str, start: str | None) -> None:
    marks = find_marks((COLLECTION / f"{name}.jinja").read_text())

    assert (None if marks is None else marks.start) == start


@pytest.mark.parametrize("before", ["", "<think>a", "<think>a</think>"])
def test_white_space_without_an_end_is_not_kept(before: str) -> None:
    parser = ReasoningParser(THINK, is_open=False)
    parser.feed(before)

    sent = [part for _ in range(100) for part in parser.feed(" " * 10)]
    rest = parser.finish()

    assert before.endswith("</think>") or count_characters(sent) >= 1000 - MAX_HELD_SPACES
    assert count_characters(rest) <= MAX_HELD_SPACES


def count_characters(parts: Iterable[Part]) -> int:
    return sum(len(part.text) for part in parts if isinstance(part, Reasoning | Content))
