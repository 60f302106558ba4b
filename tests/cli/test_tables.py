"""Tables show texts of strangers as they are, and a terminal obeys none of them."""

from __future__ import annotations

import pytest

from services.cli.tables import add_row, new_table, print_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("team [/b]", "team [/b]"),
        ("[red]x[/red]", "[red]x[/red]"),
        ("a:smile:b", "a:smile:b"),
        ("a\x1b]0;title\x07b\nc", "a\ufffd]0;title\ufffdb\ufffdc"),
    ],
    ids=["an end of markup", "markup", "the name of an emoji", "commands of a terminal"],
)
def test_a_cell_is_shown_as_it_is(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = new_table("NAME")
    add_row(table, [text])
    print_table(table, "nothing")

    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["NAME", shown]
