"""The table of a survey of models, as CSV and Markdown."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from services.shared.structs import resolved

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@resolved
class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one model without its weights."""

    name: str
    loads: Literal["yes", "perhaps", "no"]
    reason: str = ""  # why it does not, or may not; or a note about its files
    architecture: str = ""
    size_bytes: int = 0
    has_jinja: bool = False
    has_go_template: bool = False
    renderer: str = ""  # the name of a format that is part of Ollama's own code

    @property
    def prompt(self) -> str:
        """Where the prompt format comes from: `jinja`, `go`, `renderer NAME`, several, or none."""
        kinds = [
            *(["jinja"] if self.has_jinja else []),
            *(["go"] if self.has_go_template else []),
            *([f"renderer {self.renderer}"] if self.renderer else []),
        ]
        return " + ".join(kinds) or "none"


def write_tables(folder: Path, findings: Sequence[Finding]) -> None:
    """Write survey.csv and survey.md."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        (f.name, f.loads, f.prompt, f.architecture, f"{f.size_bytes / 1e9:.1f}", f.reason)
        for f in findings
    ]
    heading = ("model", "loads", "prompt format", "architecture", "GB", "why or note")
    with (folder / "survey.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    lines = [_markdown_row(heading), _markdown_row(["-"] * len(heading))]
    lines += [_markdown_row(row) for row in rows]
    text = "\n".join([*_summarize(findings), "", *lines, ""])
    (folder / "survey.md").write_text(text, encoding="utf-8")


def _summarize(findings: Sequence[Finding]) -> list[str]:
    loads = Counter(f.loads for f in findings)
    prompts = Counter(f.prompt.split(" ")[0] for f in findings if f.loads != "no")
    return [
        f"{len(findings)} models; loads: "
        + ", ".join(f"{kind} {loads[kind]}" for kind in ("yes", "perhaps", "no")),
        "",
        "First prompt format of those that load, or may: "
        + (", ".join(f"{kind} {count}" for kind, count in sorted(prompts.items())) or "none"),
    ]


def _csv_cell(text: str) -> str:
    # A spreadsheet would compute a text of a stranger that looks like a formula.
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _markdown_row(cells: Sequence[str]) -> str:
    plain = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(plain)} |"
