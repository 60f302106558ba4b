"""docs/guide/troubleshooting.md quotes messages that the code can print."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.repository.documents import DOCS, ROOT

PAGE = (DOCS / "guide" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^- `([^`]+)`$", PAGE, re.MULTILINE)
FEWEST_ENTRIES = 15


def test_there_are_entries_for_the_usual_problems() -> None:
    assert len(re.findall(r"^### ", PAGE, re.MULTILINE)) >= FEWEST_ENTRIES
    assert len(QUOTED) >= FEWEST_ENTRIES


@pytest.mark.parametrize("message", QUOTED)
def test_every_quoted_message_occurs_in_the_code(message: str) -> None:
    assert any(message in text for text in texts())


@cache
def texts() -> tuple[str, ...]:
    """Every string of the code, with `…` for what is filled in."""
    files = [ROOT / "spindll", *sorted((ROOT / "services").rglob("*.py"))]
    return tuple(text for path in files for text in strings(ast.parse(path.read_text())))


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
