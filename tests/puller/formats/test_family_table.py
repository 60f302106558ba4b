"""docs/reference/chat-templates.md has the families that have a template of their own."""

from __future__ import annotations

import pytest

from services.puller.sources.republished import REPUBLISHED
from tests.api.prompts.template_cases import COLLECTION
from tests.puller.formats.family_table import FAMILIES, Family, format_table
from tests.repository.documents import DOCS

PAGE = (DOCS / "reference" / "chat-templates.md").read_text()


@pytest.mark.skipif(not COLLECTION.is_dir(), reason="the collection of templates is not here")
def test_the_page_has_the_table_of_families() -> None:
    assert format_table() in PAGE


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_page_says_whether_a_family_loads(family: Family) -> None:
    assert f"| {', '.join(family.architectures)} | {family.loads} |" in PAGE


def test_the_page_names_what_is_published_again() -> None:
    section = PAGE[PAGE.index("## Families with a template") :].split("\n## ")[0]

    assert ", ".join(sorted(REPUBLISHED)) in " ".join(section.split())
