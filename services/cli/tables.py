"""Print tables without borders; rows are not cut when the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.formatting import printable


def new_table(*columns: str) -> Table:
    """An empty table with these headings."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def add_row(table: Table, cells: Iterable[str]) -> None:
    """Add a row. The cells are texts of strangers, in which nothing is markup."""
    table.add_row(*(Text(printable(cell)) for cell in cells))


def print_table(table: Table, empty_text: str) -> None:
    """Print the table to stdout; if it has no rows, print a sentence to stderr."""
    if table.row_count:
        # In a pipe a table must not be cut at 80 columns.
        console = Console()
        console = console if console.is_terminal else Console(width=200)
        console.print(table)
    else:
        print(empty_text, file=sys.stderr)
