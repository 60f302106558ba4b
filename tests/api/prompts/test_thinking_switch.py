"""Thinking is switched by the variable that the template has for it."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.prompts.render import Conversation
from tests.api.prompts.rendering import make_manifest, render_prompt


@pytest.mark.parametrize("switch", ["thinking", "enable_thinking"])
@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "?"),
        ({"is_thinking": True}, "on?"),
        ({"is_thinking": False}, "off?"),
        ({"is_thinking": False, "reasoning_effort": "low"}, "off low"),
    ],
)
def test_thinking_is_switched_by_the_variable_of_the_template(
    switch: str, changes: dict[str, Any], shown: str
) -> None:
    template = (
        f"{{{{ messages[0].content }}}}:"
        f"{{% if {switch} is defined %}}{{{{ 'on' if {switch} else 'off' }}}}{{% endif %}}"
        "{{ ' ' + reasoning_effort if reasoning_effort else '?' }}"
    )
    conversation = Conversation(messages=[{"role": "user", "content": "hi"}], **changes)
    prompt = render_prompt(make_manifest(template, bos_token=None), conversation)

    assert prompt.pieces[0].text == f"hi:{shown}"


def test_a_variable_that_the_client_sets_itself_wins() -> None:
    template = "{{ messages[0].content }}{{ enable_thinking }}"
    prompt = render_prompt(
        make_manifest(template, bos_token=None),
        Conversation(
            messages=[{"role": "user", "content": "hi"}],
            is_thinking=False,
            options={"enable_thinking": "a little"},
        ),
    )

    assert prompt.pieces[0].text == "hia little"
