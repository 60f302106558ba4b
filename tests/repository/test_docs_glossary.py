"""docs/develop/glossary.md says of every word where it lives."""

from __future__ import annotations

import re

import pytest

from tests.repository.documents import DOCS, ROOT

PAGE = (DOCS / "develop" / "glossary.md").read_text()
ENTRIES = re.findall(r"^- \*\*(.+?)\*\*: (.*?)(?=\n- |\n\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)
PLANNED = "planned, not in the code"


def test_no_word_is_explained_twice() -> None:
    words = [word for word, _ in ENTRIES]

    assert len(words) > 40
    assert sorted(words) == sorted(set(words))


@pytest.mark.parametrize(("word", "text"), ENTRIES, ids=[word for word, _ in ENTRIES])
def test_every_word_names_its_file_or_is_planned(word: str, text: str) -> None:
    named = re.search(r"`(\S+\.py)`$", text.strip())

    assert (ROOT / named[1]).is_file() if named else PLANNED in text, word
