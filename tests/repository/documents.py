"""The Markdown files of this repository, as the tests of the documentation read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# What set-up makes; folders that start with a dot are tools'.
_NOT_OURS = {"build", "wheels"}
_HEADING = re.compile(r"^#{1,6} +(.+?)#* *$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*(?:\n|\Z)|\n(?= {4}))+")


def markdown_files() -> list[Path]:
    """Every Markdown file of this repository."""
    found = []
    for path in sorted(ROOT.rglob("*.md")):
        folders = path.relative_to(ROOT).parts[:-1]
        if not any(part.startswith(".") or part in _NOT_OURS for part in folders):
            found.append(path)
    return found


def pages() -> list[Path]:
    """The files that people wrote: all but the reports of `make bench`."""
    results = ROOT / "bench" / "results"
    return [path for path in markdown_files() if not path.is_relative_to(results)]


def without_code(text: str) -> str:
    """A page without its code blocks; inline code stays."""
    return _INDENTED.sub("", _FENCED.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(without_code(text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if _numbered(slug, n) not in found)
        found.add(_numbered(slug, number))
    return found


def table_cells(text: str, column: int = 0) -> list[str]:
    """One column of every table of a text, header and ruler rows included."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line[:1] == "|"]
    return [row[column].strip() for row in rows if len(row) > column]


def _numbered(slug: str, number: int) -> str:
    return f"{slug}-{number}" if number else slug
