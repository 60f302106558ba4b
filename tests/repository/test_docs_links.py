"""Links, paths and the form of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repository.documents import DOCS, ROOT, anchors, markdown_files, pages, without_code

MAX_COLUMNS = 120
MAX_LINES = {"README.md": 60, "docs/decisions": 30}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE_CODE = re.compile(r"`([^`\n]+)`")
_OURS = ("bench", "docker", "docs", "locks", "macos", "protos", "services", "tests", "tools")
# Letters, digits and what paths are made of; `…`, `*`, `<name>` and NAME stand for something else.
_PATH = re.compile(rf"(?:{'|'.join(_OURS)})/[A-Za-z0-9_./-]*")


def get_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", markdown_files(), ids=get_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert [link for link in find_links(page) if not leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", pages(), ids=get_name)
def test_every_path_in_code_type_exists(page: Path) -> None:
    codes = _INLINE_CODE.findall(without_code(page.read_text()))
    paths = [code for code in codes if _PATH.fullmatch(code) and not re.search("[A-Z]{3}", code)]

    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=get_name)
def test_no_line_is_longer_than_a_screen_is_wide(page: Path) -> None:
    lines = enumerate(page.read_text().splitlines(), 1)

    assert [number for number, line in lines if len(line) > MAX_COLUMNS] == []


@pytest.mark.parametrize("page", pages(), ids=get_name)
def test_pages_that_must_stay_short_are_short(page: Path) -> None:
    limits = [n for start, n in MAX_LINES.items() if get_name(page).startswith(start)]

    assert len(page.read_text().splitlines()) <= min(limits, default=1_000)


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (get_name(page), target)
        for page in pages()
        for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }

    assert {(page, target) for page, target in named if target not in targets} == set()


def test_the_index_leads_to_every_page_of_the_documentation() -> None:
    index = DOCS / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in find_links(index)}

    assert {page for page in pages() if page.is_relative_to(DOCS)} - linked == {index}


def find_links(page: Path) -> list[str]:
    """The targets on this page that are files of this repository, or anchors."""
    text = _INLINE_CODE.sub("", without_code(page.read_text()))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors(target.read_text()))
