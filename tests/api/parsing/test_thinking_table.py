"""The thinking of every real template is told apart, or the template has none."""

from __future__ import annotations

import re

import pytest

from tests.api.parsing.thinking_table import (
    ANSWER,
    THOUGHT,
    choose_maker,
    find_all_marks,
    format_table,
    tell_apart,
    write_answer,
)
from tests.api.prompts.template_cases import COLLECTION
from tests.repository.documents import DOCS

# Templates that speak of thinking, and ask for no marks around it.
SPEAK_OF_IT = {
    "Qwen3-Coder": "asks for reasoning before a call, in the text of an answer",
    "unsloth-mistral-Devstral-Small-2507": "as above",
    "meetkai-functionary-medium-v3.1": "as above",
    "GigaChat3-10B-A1.8B": "asks for a chain of reasoning, in the text of an answer",
    "GigaChat3.1-10B-A1.8B": "as above",
}
NAMES = [path.stem for path in sorted(COLLECTION.glob("*.jinja"))]
pytestmark = pytest.mark.skipif(
    not COLLECTION.is_dir(), reason="the collection of templates is not here"
)


def read_template(name: str) -> str:
    return (COLLECTION / f"{name}.jinja").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_thinking_of_a_real_template_is_told_apart(name: str) -> None:
    """Whole, in every two pieces and letter by letter; with tools and without."""
    template = read_template(name)
    marks = find_all_marks(template)
    if marks is None:
        speaks = re.search("think|thought|reason", template, re.IGNORECASE)
        assert not speaks or name in SPEAK_OF_IT
        return
    text = write_answer(template, marks)
    splits = [[text], list(text), *([text[:n], text[n:]] for n in range(1, len(text)))]

    for has_tools in (False, True):
        make = choose_maker(template, has_tools=has_tools)
        assert {tell_apart(make(), split) for split in splits} == {(THOUGHT, ANSWER)}, text


def test_the_page_has_the_table_of_all_templates() -> None:
    assert len(NAMES) == 70
    assert format_table() in (DOCS / "reference" / "thinking.md").read_text()
