"""What a real template renders for a past call is read back as that call."""

from __future__ import annotations

import pytest

from tests.api.parsing.tool_calls.round_trips import CASES, build_table, check, format_table
from tests.api.prompts.rendering import HERE
from tests.api.prompts.template_cases import COLLECTION
from tests.repository.documents import DOCS


@pytest.mark.parametrize("name", [path.stem for path in sorted(HERE.glob("*.jinja"))])
@pytest.mark.parametrize("case", CASES)
def test_calls_of_our_templates_of_common_styles_are_read_back(name: str, case: str) -> None:
    assert check((HERE / f"{name}.jinja").read_text(), case) == "yes"


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
@pytest.mark.parametrize("name", [path.stem for path in sorted(COLLECTION.glob("*.jinja"))])
def test_calls_of_a_real_template_are_read_back(name: str) -> None:
    template = (COLLECTION / f"{name}.jinja").read_text()

    assert {case: check(template, case) for case in CASES} == dict.fromkeys(CASES, "yes")


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_the_page_has_the_table_of_the_real_templates() -> None:
    table = build_table()

    assert len(table) == 70
    assert format_table(table) in (DOCS / "reference" / "tool-calls.md").read_text()
