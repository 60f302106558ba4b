"""Calls that a limit of tokens has cut off, in the form of every real template."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.api.parsing.reading import Answer, join, read
from tests.api.parsing.tool_calls.round_trips import CASES, TYPED_TOOLS, choose, cut_answer
from tests.api.prompts.rendering import HERE
from tests.api.prompts.template_cases import COLLECTION

TOOLS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TYPED_TOOLS}
OURS = sorted(HERE.glob("*.jinja"))
REAL = sorted(COLLECTION.glob("*.jinja"))


@pytest.mark.parametrize("path", [*OURS, *REAL], ids=lambda path: path.stem)
@pytest.mark.parametrize("case", ["types", "two calls"])
def test_a_call_is_told_as_far_as_it_was_written(path: Path, case: str) -> None:
    """Cut at every character: no error, and nothing that the whole answer does not have."""
    template = path.read_text()
    dialect, text = choose(template), cut_answer(template, CASES[case])
    whole = join(read(dialect.open(TOOLS), [text]))
    assert len(whole.calls) == len(CASES[case])

    for size in range(len(text)):
        check_cut(join(read(dialect.open(TOOLS), [text[:size]])), whole, text[:size])


def check_cut(cut: Answer, whole: Answer, text: str) -> None:
    """What was cut off is the beginning of the whole answer."""
    assert len(cut.calls) <= len(whole.calls)
    for number, (call, complete) in enumerate(zip(cut.calls, whole.calls, strict=False), 1):
        assert call.name == complete.name
        assert call.is_whole or number == len(cut.calls)
        if call.is_whole:
            assert call.arguments == complete.arguments
        else:
            # A string may end with half of its end mark: that is what was written.
            rest = cut_common(call.arguments, complete.arguments)
            assert not rest or text.endswith(json.loads(f'"{rest}"'))
    # A call that broke off before its name is content, as it was written.
    rest = cut_common(cut.content, whole.content)
    assert not rest or text.endswith(rest)
    is_in_call = any(not call.is_whole for call in cut.calls)
    assert not (rest and is_in_call)


def cut_common(text: str, whole: str) -> str:
    """What follows the common beginning of both."""
    return text[len(os.path.commonprefix([text, whole])) :]  # noqa: RUF071
