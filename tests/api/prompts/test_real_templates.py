"""Every real template renders every case, and the page about them says so."""

from __future__ import annotations

import re

import pytest

from services.api.prompts.render import Conversation
from tests.api.prompts.rendering import HERE, make_manifest, render_prompt
from tests.api.prompts.template_cases import (
    ANSWER,
    CASES,
    COLLECTION,
    SYSTEM,
    USER,
    build_table,
    check,
    format_table,
)
from tests.repository.documents import DOCS

# By template and case: why it is not rendered. The page explains them.
EXCEPTIONS = {
    ("CohereForAI-c4ai-command-r-plus-tool_use", "object parameter"): (
        "InvalidModelFile: the model's chat template failed in line 10 (UndefinedError)"
    )
}


@pytest.mark.parametrize("name", [path.stem for path in sorted(HERE.glob("*.jinja"))])
@pytest.mark.parametrize("case", CASES)
def test_our_templates_of_common_styles_render_every_case(name: str, case: str) -> None:
    assert check((HERE / f"{name}.jinja").read_text(), case) == "yes"


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_every_real_template_renders_every_case() -> None:
    table = build_table()
    failed = {
        (name, case): found
        for name, cells in table.items()
        for case, found in cells.items()
        if found != "yes"
    }

    assert len(table) == 70
    assert failed == EXCEPTIONS
    assert format_table(table) in (DOCS / "reference" / "chat-templates.md").read_text()


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_protecting_tokens_does_not_change_an_honest_prompt() -> None:
    conversation, _ = CASES["calls"]
    thought = {"role": "assistant", "content": "<think>Hidden</think>AnswerWords"}
    changed = []
    for path in sorted(COLLECTION.glob("*.jinja")):
        source = path.read_text()
        # As if every tag were a control token.
        tokens = tuple(sorted(set(re.findall(r"<[^\s<>{}'\"]{1,40}>", source))))
        answer = thought if {"<think>", "</think>"} <= set(tokens) else ANSWER
        plain, protected = (
            render_prompt(
                make_manifest(source, control_tokens=control, bos_token=None, eos_token=None),
                Conversation(
                    messages=[SYSTEM, USER, answer, *conversation["messages"]],
                    tools=conversation["tools"],
                    options={"datetime": "today"},
                ),
            )
            for control in ((), tokens)
        )
        if [(p.text, p.literal) for p in protected.pieces] != [(plain.pieces[0].text, False)]:
            changed.append(path.stem)

    assert changed == []
