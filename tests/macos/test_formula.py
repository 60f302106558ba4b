"""The formula for Homebrew is Ruby, and names what the launcher needs."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

FORMULA = ROOT / "macos" / "spindll.rb"
TEXT = FORMULA.read_text()
# Lines that open a block, and where a heredoc begins.
_OPENS = re.compile(r"^\s*(class|def|if|unless|case)\b|\bdo(\s*\|[^|]*\|)?\s*$")
_HEREDOC = re.compile(r"<<~([A-Z]+)\b")


def test_the_syntax_is_ruby() -> None:
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("there is no ruby here: the other tests read the text")
    subprocess.run([ruby, "-c", FORMULA], check=True)


def test_every_block_heredoc_quote_and_bracket_is_closed() -> None:
    code = without_heredocs(TEXT)
    opened = [line for line in code if _OPENS.search(line)]
    closed = [line for line in code if line.strip() == "end"]

    assert len(opened) == len(closed) == 4
    assert [line for line in code if line.count('"') % 2] == []
    for pair in ("()", "[]", "{}"):
        assert [line for line in code if line.count(pair[0]) != line.count(pair[1])] == []


def test_blocks_are_nested_as_they_are_indented() -> None:
    depth = 0
    for line in without_heredocs(TEXT):
        depth -= line.strip() == "end"
        assert len(line) - len(line.lstrip()) == 2 * depth, line
        depth += bool(_OPENS.search(line))
    assert depth == 0


def test_it_needs_what_the_launcher_needs() -> None:
    assert re.findall(r"depends_on (.+)", TEXT) == [
        "arch: :arm64",
        "macos: :sonoma",
        '"python@3.13"',
        '"redis"',
    ]
    assert 'license "Apache-2.0"' in TEXT
    assert re.search(r"class Spindll < Formula", TEXT)


def test_what_it_writes_is_sh() -> None:
    script = re.search(r"<<~SH\n(.*?)^\s*SH$", TEXT, re.MULTILINE | re.DOTALL)
    assert script is not None
    subprocess.run(["sh", "-n"], input=script[1], text=True, check=True)


def without_heredocs(text: str) -> list[str]:
    """The lines of code: without comments, blank lines and the text of heredocs."""
    lines: list[str] = []
    end = ""
    for line in text.splitlines():
        if end:
            end = "" if line.strip() == end else end
            continue
        if line.strip() and not line.lstrip().startswith("#"):
            lines.append(line)
            found = _HEREDOC.search(line)
            end = found[1] if found else ""
    assert end == "", f"the heredoc {end} does not end"
    return lines
