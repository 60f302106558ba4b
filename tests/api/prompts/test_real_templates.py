"""Every real template renders every case, and the page about them says so."""

from __future__ import annotations

import pytest

from tests.api.prompts.rendering import HERE
from tests.api.prompts.template_cases import CASES, COLLECTION, build_table, check, format_table
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
