"""Tables on the terminal: columns without lines, and whole lines where nobody looks at them."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def new_table(*columns: str) -> Table:
    """An empty table with these headings."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def print_table(table: Table, nothing: str) -> None:
    """The table on stdout; where it has no row, a sentence on stderr."""
    if table.row_count:
        # Piped into another program a table must not be cut at 80 columns.
        console = Console()
        console = console if console.is_terminal else Console(width=200)
        console.print(table)
    else:
        print(nothing, file=sys.stderr)
